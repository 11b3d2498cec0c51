"""`pe annotate`: a local page on which people refine the captions of videos."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import option
from perception_encoder.cli.progress import track
from perception_encoder.cli.video_dataset.options import Data, Store

DOUBLE = "Share of the videos that two people annotate [default: the project's, first 0.1]."


def annotate(
    data: Data,
    store: Store = None,
    team: Annotated[str | None, option("Only these people may annotate, such as anna,ben.", "NAMES")] = None,
    double: Annotated[float | None, option(DOUBLE, "SHARE")] = None,
    lan: options.Lan = False,
    host: options.Host = None,
    port: options.Port = 8010,
    key: options.Key = None,
) -> None:
    """Refine captions of videos in the browser.

    Shows each video, in a loop, with the caption of a model. A person removes what is wrong, corrects it, adds what is
    missing, and rates the model's caption from 1 to 5; a second person reviews. Everything has a key: press ? on the
    page. Each change is stored at once, so that a crash loses nothing. The dataset is not changed:
    `pe video-dataset export` writes a new one with the refined captions.

    DATA has the layout of the PE Video Dataset: tars of KEY.mp4 and KEY.json, whose `model_caption` is refined; or it
    is an output of `pe engine run`, whose captioner `pe engine refine` then finetunes on the refined captions. By
    default only this machine can open the page. With --lan, or with --host and --key, other devices can too; the
    connection is not encrypted, so use it only in a network that you trust. People say who they are, without a
    password.

    Examples:

        pe annotate clips
        pe annotate captioned            # of pe engine run
        pe annotate PE-Video --team anna,ben --double 0.2
        pe annotate clips --lan      # open http://192.168.1.5:8010/?key=… on other machines
    """
    from perception_encoder.serving.guard import HOSTS
    from perception_encoder.serving.server import choose_key, listen, page_address, reachable_names, run_server
    from perception_encoder.video_dataset.annotation.project import AnnotationProject
    from perception_encoder.video_dataset.annotation.server import create_annotation_page

    host = host or ("0.0.0.0" if lan else "127.0.0.1")
    key = choose_key(host, lan, key)
    with listen(host, port) as listener:
        project = AnnotationProject(data, store)
        count = project.update(track)
        if team is not None:
            project.set_team([name for name in options.items_of(team) if name])
        if double is not None:
            project.set_double(double)
        names = reachable_names(host)
        page = create_annotation_page(project, (*names, host, *HOSTS), key)
        output.print_line(f"{count:,} videos of {data} at {page_address(names[0], listener, key)}")
        run_server(page, listener)
        project.close()
