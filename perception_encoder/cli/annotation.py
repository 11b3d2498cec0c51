"""`pe annotate` and the commands of `pe video-dataset` about annotations: assign, progress, export and import."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from perception_encoder.cli import options, output
from perception_encoder.cli.options import argument, flag, items_of, option
from perception_encoder.cli.progress import track

if TYPE_CHECKING:
    from perception_encoder.video_dataset.annotation.export import ExportChoice
    from perception_encoder.video_dataset.annotation.progress import Agreement

DATA = "The dataset: a directory of train/*.tar and so on, one tar, or an output of `pe engine run`."
Data = Annotated[Path, argument("DATA", DATA)]
Store = Annotated[Path | None, option("The project's file [default: DATA/annotations.sqlite].", "FILE")]
Features = Annotated[Path, argument("FEATURES", "Directory that `pe video-dataset features` wrote.")]
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
    from perception_encoder.serving.server import HOSTS, choose_key, listen, page_address, reachable_names, run_server
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


def assign(
    data: Data,
    people: Annotated[str, option("Names, separated by commas.", "NAMES")],
    store: Store = None,
) -> None:
    """Deal videos to annotators.

    Each video that nobody has begun goes to one of them, in turn, and one that needs two annotations to two. Only they
    are offered it in `pe annotate`. Without assignments everyone gets the next free video. Run it again to deal the
    rest anew.

    Examples:

        pe video-dataset assign clips --people anna,ben
    """
    from perception_encoder.video_dataset.annotation.project import AnnotationProject

    project = AnnotationProject(data, store)
    project.update(track)
    output.print_table(("name", "videos"), project.assign([name for name in items_of(people) if name]).items())
    project.close()


def progress(data: Data, store: Store = None, as_json: options.Json = False) -> None:
    """Show how far annotators are.

    Counts of videos, what each person has done and how long it took, and how far two people agree: the share of words
    that their captions have in common, Cohen's kappa on which words of the model's caption they removed, and
    Krippendorff's alpha of their ratings.

    Examples:

        pe video-dataset progress clips
        pe video-dataset progress clips --json
    """
    from perception_encoder.video_dataset.annotation.progress import count_progress, measure_agreement
    from perception_encoder.video_dataset.annotation.project import AnnotationProject

    project = AnnotationProject(data, store)
    project.update(track)
    state, agreement = count_progress(project), measure_agreement(project)
    project.close()
    if as_json:
        output.print_json({**asdict(state), "hours_left": state.hours_left, "agreement": asdict(agreement)})
        return
    rows = [
        (
            person.name,
            person.origin,
            person.done,
            person.last_hour,
            _rounded(person.seconds),
            person.skipped,
            person.reviewed,
        )
        for person in state.people
    ]
    output.print_table(("name", "origin", "done", "last hour", "seconds each", "skipped", "reviewed"), rows)
    left = "" if state.hours_left is None else f"; about {state.hours_left:.1f} hours of work left"
    counts = f"{state.begun} begun, {state.skipped} skipped, {state.reviewed} reviewed{left}"
    output.print_remark(f"{state.done:,} of {state.videos:,} videos done, {counts}")
    if agreement.videos:
        output.print_remark(describe_agreement(agreement))


def describe_agreement(agreement: Agreement) -> str:
    """One line on how far two people agree."""
    parts = {
        "words in common": agreement.similarity,
        "kappa of removed words": agreement.words,
        "alpha of ratings": agreement.ratings,
        "ratings within 1": agreement.within_one,
    }
    values = ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if value is not None)
    return f"agreement on {agreement.videos} videos: {values}"


def _rounded(seconds: float | None) -> str:
    return output.NONE if seconds is None else f"{seconds:.0f}"


def export(
    data: Data,
    out: Annotated[Path, options.out_option("A new directory of tars, or a .json file for Label Studio.", "OUT")],
    store: Store = None,
    refined_only: Annotated[bool, flag("--refined-only", "Leave out videos without a refined caption.")] = False,
    selection: Annotated[Path | None, option("Write only these: a table of `select`.", "FILE")] = None,
    scores: Annotated[Path | None, option("Add `interest_score`: a table of `score`.", "FILE")] = None,
    categories: Annotated[Path | None, option("Add `category_name`: a table of `categorise`.", "FILE")] = None,
    video_prefix: Annotated[str, option("For Label Studio: the address of the videos.", "URL")] = "",
) -> None:
    """Write refined captions: tars, or JSON.

    A directory gets the dataset in the layout of the PE Video Dataset, with the refined captions as `human_caption`,
    and `refined_by`, `caption_rating` and `caption_reviewed`; names of people are left out. Captions of a simulated
    annotator are `refined_caption` instead. Of several annotations, an approved one is taken, else the earliest.

    A .json file gets all annotations in Label Studio's format; `video` is URL + KEY.mp4. The interface of the project
    there is printed.

    Examples:

        pe video-dataset export clips -o refined
        pe video-dataset export clips -o refined --refined-only
        pe video-dataset export clips -o out --selection selection.csv --categories categories.csv
        pe video-dataset export clips -o labels.json --video-prefix "/data/local-files/?d=clips/"
    """
    from perception_encoder.video_dataset.annotation.export import export_dataset
    from perception_encoder.video_dataset.annotation.label_studio import LABELING_CONFIG, export_tasks
    from perception_encoder.video_dataset.annotation.project import AnnotationProject

    project = AnnotationProject(data, store)
    project.update(track)
    if out.suffix == ".json":
        count = export_tasks(project, out, video_prefix)
        output.print_line(f"{count:,} videos with their annotations: {out}")
        for line in LABELING_CONFIG.splitlines():
            output.print_line(line)
    else:
        counts = export_dataset(project, out, choose_videos(refined_only, selection, scores, categories), track)
        output.print_line(f"{counts.videos:,} videos, {counts.refined:,} with refined captions: {out}")
    project.close()


def choose_videos(
    refined_only: bool, selection: Path | None, scores: Path | None, categories: Path | None
) -> ExportChoice:
    """Read the tables of what is written."""
    from perception_encoder.video_dataset.annotation.export import ExportChoice
    from perception_encoder.video_dataset.outcomes import read_outcomes

    fields: dict[str, dict[str, Any]] = {}
    for path, column, name in ((scores, "score", "interest_score"), (categories, "category", "category_name")):
        for key, row in read_outcomes(path, column).items() if path is not None else ():
            fields.setdefault(key, {})[name] = row[column]
    keys = None if selection is None else frozenset(read_outcomes(selection))
    return ExportChoice(refined_only=refined_only, selection=keys, fields=fields)


def import_labels(
    data: Data,
    labels: Annotated[Path, argument("FILE", "Tasks that Label Studio exported as JSON.")],
    store: Store = None,
    annotator: Annotated[str | None, option("Name for annotations that do not say whose they are.", "NAME")] = None,
) -> None:
    """Read annotations of Label Studio.

    Adds them to the annotation project, all or none. A video is found by its tar and key, or by the name of its file.
    An annotation that is there already is counted, and not added twice.

    Examples:

        pe video-dataset import clips project-1.json
    """
    from perception_encoder.video_dataset.annotation.label_studio import import_tasks
    from perception_encoder.video_dataset.annotation.project import AnnotationProject

    project = AnnotationProject(data, store)
    project.update(track)
    counts = import_tasks(project, labels, annotator)
    output.print_line(f"{counts.added:,} annotations added, {counts.known:,} already there")
    project.close()
