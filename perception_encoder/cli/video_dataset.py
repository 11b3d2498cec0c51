"""`pe annotate` and `pe video-dataset`: refine captions of videos, and select, describe and export datasets of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.groups import lazy_group
from perception_encoder.cli.options import MODEL, argument, flag, option
from perception_encoder.cli.output import track
from perception_encoder.errors import DataError
from perception_encoder.models.defaults import default_model

COMMANDS = {
    "Commands": {
        "stats": "video_dataset:stats",
        "select": "video_dataset:select",
        "progress": "video_dataset:progress",
        "export": "video_dataset:export",
        "import": "video_dataset:import_tasks",
    },
}
app = lazy_group(COMMANDS)
DATA = "The dataset: a directory of train/*.tar and so on, one tar, or an output of `pe engine run`."
Data = Annotated[Path, argument("DATA", DATA)]
Store = Annotated[Path | None, option("File of the annotations [default: DATA/annotations.sqlite].", "FILE")]
DOUBLE = "Share of the videos that two people annotate [default: unchanged, initially 0.1]."
ASK = "Vision-language model that answers 26 questions, such as facebook/Perception-LM-1B; builtin-lang is a demo."
SELECTION = "Write only these videos: a table of `pe video-dataset select`; also adds its scores and categories."
SPLIT = "Split to show, or all [default: test (the benchmark) if there is one, else all]."


@app.callback()
def video_dataset() -> None:
    """Make datasets of captioned videos.

    They have the layout of the PE Video Dataset: tars of KEY.mp4 and KEY.json in train/, test/ and extended/. People
    refine the captions with `pe annotate`; `pe eval retrieval` evaluates a model on a dataset's refined captions.

    Examples:

        pe video-dataset stats PE-Video
        pe video-dataset select clips --hand-scores scores.csv -o selection.csv
        pe annotate clips
        pe video-dataset export clips -o refined
    """


def annotate(
    data: Data,
    store: Store = None,
    double: Annotated[float | None, option(DOUBLE, "SHARE")] = None,
    lan: options.Lan = False,
    host: options.Host = None,
    port: options.Port = 8010,
    key: options.Key = None,
) -> None:
    """Refine captions of videos in the browser.

    The page loops each video beside the caption of a model. A person removes what is wrong, corrects it, adds what is
    missing, and rates the model's caption from 1 to 5; a second person reviews. Press ? on the page for its keys. Every
    change is stored at once. The dataset does not change: `pe video-dataset export` writes a new one.

    People give their names, without a password, and get the next free video. Only this machine can open the page,
    unless you add --lan, or --host and --key; the connection is not encrypted, so use it only in a network that you
    trust.

    Examples:

        pe annotate clips
        pe annotate captioned            # of pe engine run
        pe annotate PE-Video --double 0.2
        pe annotate clips --lan      # open http://192.168.1.5:8010/?key=… on other machines
    """
    from perception_encoder.video_dataset.annotation.server import serve_annotations

    def show(videos: int, address: str) -> None:
        output.print_line(f"{videos:,} videos of {data} at {address}")

    serve_annotations(data, store, double=double, lan=lan, host=host, port=port, key=key, progress=track, on_start=show)


def stats(
    data: Data,
    split: Annotated[str | None, option(SPLIT, "NAME")] = None,
    out: Annotated[
        Path | None, options.out_option("Also write a row for each video: .parquet or .csv.", "FILE")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show statistics of a dataset.

    The paper's table 3: videos, lengths and words of captions by split, as mean ± standard deviation. And its table 16:
    the refined captions by category, of the benchmark (the split test) unless --split says otherwise. The rows of -o
    have a video's key (SPLIT/KEY), captions, who refined them, category, duration and frame rate.

    Examples:

        pe video-dataset stats PE-Video
        pe video-dataset stats PE-Video --split test -o test.parquet
        pe video-dataset stats clips --json
    """
    from perception_encoder.video_dataset.dataset import open_video_dataset
    from perception_encoder.video_dataset.tables import check_table_path, write_video_table

    if out is not None:
        check_table_path(out)
    dataset = open_video_dataset(data)
    statistics = dataset.stats()
    if split is not None and split not in statistics.splits:
        raise DataError(f"{data} has no split {split!r}; it has {', '.join(filter(None, statistics.splits))}")
    if out is not None:
        rows = dataset.rows(split)
        write_video_table(out, rows)
        output.print_remark(f"{len(rows):,} videos: {out}")
    if as_json:
        output.print_json(statistics.to_dict())
        return
    columns = ("split", "videos", "refined", "simulated", "seconds", "hours", "model's words", "refined words")
    table = [
        (
            name or output.NONE,
            row.videos,
            row.refined,
            row.simulated,
            row.seconds,
            f"{row.hours:.1f}",
            row.model_words,
            row.refined_words,
        )
        for name, row in statistics.splits.items()
    ]
    output.print_table(columns, table)
    split = split or statistics.benchmark
    categories = [(row.category, row.videos, f"{row.words:.1f}") for row in statistics.categories[split]]
    if categories:
        output.print_table((f"category ({split})", "refined", "words"), categories)


def select(
    data: Data,
    hand_scores: Annotated[Path, option("Hand scores: a table of `key` (SPLIT/KEY) and `score` (0 to 5).", "FILE")],
    out: Annotated[Path, options.out_option("Table of the selected videos: .parquet or .csv.")],
    count: Annotated[int, option("Maximum number of selected videos.", least=1)] = 1000,
    features: Annotated[
        Path | None, option("Directory of the videos' features, reused by later runs [default: DATA/features].", "DIR")
    ] = None,
    model: Annotated[str | None, options.model_option("see `pe models`")] = None,
    ask_model: Annotated[str | None, option(ASK, "MODEL", MODEL)] = None,
    as_json: options.Json = False,
    strict: options.Strict = False,
) -> None:
    """Select varied, interesting videos.

    As in the paper's appendix A.2: features of each video (motion, embeddings of three frames, and with --ask-model the
    answers to 26 questions), a random forest that learns interest scores from your hand scores, and the best videos of
    each k-means cluster without near-duplicates. A hand score is from 0 (one frame says it all) to 5 (several events);
    the paper used about 1,000. Also assigns the paper's ten categories. An interrupted run resumes at the next tar.
    Needs the extra `eval`.

    Examples:

        pe video-dataset select clips --hand-scores scores.csv --count 500 -o selection.csv
        pe video-dataset select clips --hand-scores scores.csv -o selection.csv --ask-model facebook/Perception-LM-1B
    """
    from perception_encoder.video_dataset.dataset import open_video_dataset
    from perception_encoder.video_dataset.tables import check_table_path, write_video_table

    check_table_path(out)
    selection = open_video_dataset(data).select(
        hand_scores, count, features=features, model=model, ask_model=ask_model, track=track
    )
    write_video_table(out, selection.rows())
    total, report = len(selection.scored), selection.report
    if as_json:
        output.print_json({"videos": total, "selected": len(selection.videos), "forest": report.to_dict()})
    else:
        output.print_line(
            f"scores, out of bag on {report.videos:,} hand scores: mean error {report.mean_error:.2f}, "
            f"R² {report.explained:.2f}, rank correlation {report.rank_correlation:.2f}"
        )
        importances = [(name, f"{value:.3f}") for name, value in list(report.importances.items())[:10]]
        output.print_table(("feature", "importance"), importances)
        categories = Counter(selection.scored[video.key].category for video in selection.videos)
        output.print_table(("category", "selected"), categories.most_common())
        output.print_line(f"{len(selection.videos):,} of {total:,} videos selected: {out}")
    output.print_demo(model or default_model(), ask_model)
    output.exit_with_skipped(selection.failures, total, strict)


def progress(data: Data, store: Store = None, as_json: options.Json = False) -> None:
    """Show the progress of annotators.

    Counts of videos, what each person has done and at which pace, and how far two people agree: the share of words that
    their captions have in common, and Krippendorff's alpha of their ratings.

    Examples:

        pe video-dataset progress clips
        pe video-dataset progress clips --json
    """
    from perception_encoder.video_dataset.dataset import open_video_dataset

    state = open_video_dataset(data, store).progress()
    if as_json:
        output.print_json(state.to_dict())
        return
    rows = [
        (
            person.name,
            person.done,
            output.NONE if person.seconds is None else f"{person.seconds:.0f}",
            person.skipped,
            person.reviewed,
        )
        for person in state.people
    ]
    output.print_table(("name", "done", "seconds each", "skipped", "reviewed"), rows)
    left = "" if state.hours_left is None else f"; about {state.hours_left:.1f} hours of work left"
    counts = f"{state.begun} begun, {state.skipped} skipped, {state.reviewed} reviewed{left}"
    output.print_remark(f"{state.done:,} of {state.videos:,} videos done, {counts}")
    if state.agreement.videos:
        output.print_remark(str(state.agreement))


def export(
    data: Data,
    out: Annotated[Path, options.out_option("New directory of tars, or a .json file for Label Studio.", "OUT")],
    store: Store = None,
    refined_only: Annotated[bool, flag("--refined-only", "Leave out videos without a refined caption.")] = False,
    selection: Annotated[Path | None, option(SELECTION, "FILE")] = None,
    video_prefix: Annotated[str, option("For Label Studio: start of the videos' addresses.", "URL")] = "",
) -> None:
    """Write refined captions: tars, or JSON.

    A directory gets the dataset in the layout of the PE Video Dataset, with the refined captions as `human_caption`,
    and `refined_by`, `caption_rating` and `caption_reviewed`; people's names are left out. Of several annotations of a
    video, the approved one is written, else the earliest. Scores and categories become `interest_score` and
    `category_name`. KEY.txt has the caption for `pe train --shards OUT/train`. Rerun the command if it was interrupted.

    A .json file gets all annotations in Label Studio's format; `video` is URL + KEY.mp4. The labelling interface for
    the project there is printed.

    Examples:

        pe video-dataset export clips -o refined
        pe video-dataset export clips -o refined --refined-only
        pe video-dataset export clips -o chosen --selection selection.csv
        pe video-dataset export clips -o labels.json --video-prefix "/data/local-files/?d=clips/"
    """
    from perception_encoder.video_dataset.annotation.export import LABELING_CONFIG
    from perception_encoder.video_dataset.dataset import open_video_dataset

    dataset = open_video_dataset(data, store)
    if out.suffix == ".json":
        count = dataset.export_tasks(out, video_prefix)
        output.print_line(f"{count:,} videos with their annotations: {out}")
        for line in LABELING_CONFIG.splitlines():
            output.print_line(line)
    else:
        counts = dataset.export(out, refined_only=refined_only, selection=selection, track=track)
        output.print_line(f"{counts.videos:,} videos, {counts.refined:,} with refined captions: {out}")


def import_tasks(
    data: Data,
    file: Annotated[Path, argument("FILE", "Tasks that Label Studio exported as JSON.")],
    store: Store = None,
) -> None:
    """Read annotations of Label Studio.

    Adds them to the dataset's annotations, all or none. An annotation that is already there is counted, not added
    again.

    Examples:

        pe video-dataset import clips project-1.json
    """
    from perception_encoder.video_dataset.dataset import open_video_dataset

    counts = open_video_dataset(data, store).import_tasks(file)
    output.print_line(f"{counts.added:,} annotations added, {counts.known:,} already there")
