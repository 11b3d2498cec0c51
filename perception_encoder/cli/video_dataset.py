"""`pe video-dataset`: select videos, and load, describe and benchmark a dataset of captioned videos."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli import evaluate_options as evaluation
from perception_encoder.cli.annotation import Data, Features
from perception_encoder.cli.groups import lazy_group
from perception_encoder.cli.options import Frames, option
from perception_encoder.cli.progress import track
from perception_encoder.errors import DataError

if TYPE_CHECKING:
    from perception_encoder.video_dataset.statistics import Spread

COMMANDS = {
    "Selection": {
        "features": "video_dataset:features",
        "score": "video_dataset:score",
        "select": "video_dataset:select",
        "categorise": "video_dataset:categorise",
    },
    "Annotation": {
        "assign": "annotation:assign",
        "progress": "annotation:progress",
        "export": "annotation:export",
        "import": "annotation:import_labels",
    },
    "Use": {
        "load": "video_dataset:load",
        "stats": "video_dataset:stats",
        "benchmark": "video_dataset:benchmark",
    },
}
app = lazy_group(COMMANDS)
ASK = "Language model that answers 26 questions, such as facebook/Perception-LM-1B; builtin-lang is a demo."
MOST = 10
SPLIT = "Split of the table of categories, or all [default: test, the benchmark, else all]."


@app.callback()
def video_dataset() -> None:
    """Make datasets of captioned videos.

    They have the layout of the PE Video Dataset: tars of KEY.mp4 and KEY.json in train/, test/ and extended/.
    `pe annotate` opens the page on which people refine the captions.

    Examples:

        pe video-dataset features clips -o features
        pe video-dataset assign clips --people anna,ben
        pe video-dataset progress clips
        pe video-dataset export clips -o refined
        pe video-dataset benchmark PE-Video -m PE-Core-L14-336
    """


def features(
    data: Data,
    out: Annotated[Path, options.out_option("Directory of Parquet files, one a tar.", "DIR")],
    model: Annotated[str | None, options.model_option("see `pe models`")] = None,
    ask_model: Annotated[str | None, option(ASK, "MODEL", options.MODEL)] = None,
    strict: options.Strict = False,
) -> None:
    """Compute features of videos.

    Frame rate, frames and I-frames; the motion vectors' length and variance, from the codec or, if it has none, by
    matching blocks; how much moves besides the camera, how often and in how many regions; embeddings of three uniform
    frames; and with --ask-model the probability of yes for 26 questions on the camera, the scene, motion, actions,
    content and obstruction. An interrupted run goes on at the next tar.

    Examples:

        pe video-dataset features clips -o features
        pe video-dataset features clips -o features -m PE-Core-L14-336 --ask-model facebook/Perception-LM-1B
    """
    from perception_encoder.inference.load import load
    from perception_encoder.language_alignment.load import load_language_model
    from perception_encoder.video_dataset.features import extract_features

    encoder = load(model := model or default_model.default_model())
    language_model = load_language_model(ask_model) if ask_model else None
    run = extract_features(data, out, encoder, language_model, track)
    output.print_line(f"features of {run.videos:,} videos: {out}")
    default_model.print_demo(model, ask_model)
    output.exit_with_skipped(run.failures, run.videos, strict)


def score(
    features: Features,
    hand: Annotated[Path, option("Hand scores: a table of `key` (SPLIT/KEY) and `score` (0 to 5).", "FILE")],
    out: Annotated[Path, options.out_option("Table of scores: .parquet, .csv or .jsonl.")],
    seed: Annotated[int, option("Random seed.", least=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """Score videos by a random forest.

    Fitted on hand scores, from 0 (one frame says it all) to 5 (several events); the paper used about 1,000. Prints the
    error out of bag, beside that of the mean hand score, and the most important features. Needs the extra `eval`.

    Examples:

        pe video-dataset score features --hand scores.csv -o scores.parquet
    """
    from perception_encoder.video_dataset.features import read_features
    from perception_encoder.video_dataset.interest import read_hand_scores, report_as_json, score_videos
    from perception_encoder.video_dataset.outcomes import check_outcome_path, write_outcomes

    check_outcome_path(out)
    scores = score_videos(read_features(features), read_hand_scores(hand), seed)
    rows = [{"key": key, "score": value} for key, value in zip(scores.keys, scores.values.tolist(), strict=True)]
    write_outcomes(out, rows)
    report = scores.report
    if as_json:
        output.print_json(report_as_json(report))
        return
    errors = f"mean error {report.mean_error:.2f} (of the mean score {report.baseline_error:.2f})"
    output.print_line(
        f"{len(rows):,} videos scored; out of bag on {report.videos:,} hand scores: {errors}, "
        f"R² {report.explained:.2f}, rank correlation {report.rank_correlation:.2f}"
    )
    importances = [(name, f"{value:.3f}") for name, value in list(report.importances.items())[:MOST]]
    output.print_table(("feature", "importance"), importances)


def select(
    features: Features,
    scores: Annotated[Path, option("Table that `pe video-dataset score` wrote.", "FILE")],
    out: Annotated[Path, options.out_option("Table of the selection: .parquet, .csv or .jsonl.")],
    count: Annotated[int, option("Most videos to select.", least=1)] = 1000,
    seed: Annotated[int, option("Random seed.", least=0)] = 0,
) -> None:
    """Select varied videos.

    K-means on the videos' embeddings; then the best of each cluster by score, the second of each, and so on, without
    near-duplicates. Needs the extra `eval`.

    Examples:

        pe video-dataset select features --scores scores.parquet --count 500 -o selection.csv
    """
    from perception_encoder.video_dataset.features import read_features
    from perception_encoder.video_dataset.outcomes import check_outcome_path, write_outcomes
    from perception_encoder.video_dataset.selection import align_scores, select_videos

    check_outcome_path(out)
    table = read_features(features)
    chosen = select_videos(table, align_scores(table, scores), count, seed=seed)
    write_outcomes(out, [dict(vars(video)) for video in chosen])
    output.print_line(f"{len(chosen):,} of {len(table):,} videos selected: {out}")


def categorise(
    features: Features,
    out: Annotated[Path, options.out_option("Table of categories: .parquet, .csv or .jsonl.")],
    model: Annotated[str | None, options.model_option("see `pe models`")] = None,
) -> None:
    """Sort videos into ten categories.

    By the texts nearest to a video's frames: Hand Actions, Object Interactions, Food Preparation, Work Activities,
    Outdoor Scenes, Animals, Water Scenes, Object Handling, Close-up Shots, Nature Scenes. Use the model that computed
    the features.

    Examples:

        pe video-dataset categorise features -o categories.csv
    """
    from perception_encoder.inference.load import load
    from perception_encoder.video_dataset.categories import categorise_videos
    from perception_encoder.video_dataset.features import read_features
    from perception_encoder.video_dataset.outcomes import check_outcome_path, write_outcomes

    check_outcome_path(out)
    table = read_features(features)
    categories = categorise_videos(table, load(model := model or default_model.default_model()))
    write_outcomes(out, [dict(vars(each)) for each in categories])
    counts = Counter(each.category for each in categories)
    default_model.print_demo(model)
    output.print_table(("category", "videos"), counts.most_common())


def load(
    data: Data,
    out: Annotated[Path, options.out_option("Table of videos: .parquet, .csv or .jsonl.")],
    split: Annotated[str | None, option("One split, such as test [default: all].", "NAME")] = None,
) -> None:
    """Read a dataset's fields into a table.

    A row a video: its key (SPLIT/KEY), captions, who refined them, category, seconds, frame rate, and where its bytes
    are in which tar. Published tars are read as they are. Every tar and every JSON is checked.

    Examples:

        pe video-dataset load PE-Video -o videos.parquet
        pe video-dataset load PE-Video --split test -o test.csv
    """
    from perception_encoder.datasets.pe_video import read_videos_of
    from perception_encoder.video_dataset.outcomes import check_outcome_path, write_outcomes
    from perception_encoder.video_dataset.tars import describe_record

    check_outcome_path(out)
    rows = [describe_record(record) for record in read_videos_of(data, split)]
    write_outcomes(out, rows)
    output.print_line(f"{len(rows):,} videos: {out}")


def stats(
    data: Data, split: Annotated[str | None, option(SPLIT, "NAME")] = None, as_json: options.Json = False
) -> None:
    """Show statistics of a dataset.

    The paper's table 3: videos, lengths and words of captions, by split, as mean ± standard deviation. And its table
    16: the refined captions of each category in the benchmark, the split test. Every tar and every JSON is read and
    checked.

    Examples:

        pe video-dataset stats PE-Video
        pe video-dataset stats PE-Video --split train
        pe video-dataset stats clips --json
    """
    from perception_encoder.datasets.pe_video import read_videos_of
    from perception_encoder.video_dataset.statistics import ALL, BENCHMARK, describe_dataset

    statistics = describe_dataset(read_videos_of(data))
    if split is not None and split not in statistics.splits:
        raise DataError(f"{data} has no split {split!r}; it has {', '.join(filter(None, statistics.splits))}")
    if as_json:
        output.print_json(asdict(statistics))
        return
    columns = ("split", "videos", "refined", "simulated", "seconds", "hours", "model's words", "refined words")
    rows = [
        (
            split or output.NONE,
            table.videos,
            table.refined,
            table.simulated,
            _spread(table.seconds),
            f"{table.hours:.1f}",
            _spread(table.model_words),
            _spread(table.refined_words),
        )
        for split, table in statistics.splits.items()
    ]
    output.print_table(columns, rows)
    split = split or (BENCHMARK if statistics.categories.get(BENCHMARK) else ALL)
    categories = [(row.category, row.videos, f"{row.words:.1f}") for row in statistics.categories[split]]
    if categories:
        output.print_table((f"category ({split})", "refined", "words"), categories)


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.1f}±{spread.deviation:.1f}" if spread.count else output.NONE


def benchmark(
    model: evaluation.TwoTowers,
    data: Data,
    split: evaluation.Split = "test",
    transform: evaluation.Transforms = "squash,crop",
    frames: Frames = 8,
    out: evaluation.Out = None,
) -> None:
    """Evaluate text and video retrieval.

    PVD-Bench: the videos of the split `test` with a refined caption; of the published dataset, 15,000. R@1, R@5 and
    R@10 in both directions, with and without dual softmax, as in `pe eval retrieval`. Needs the extra `eval`.

    Examples:

        pe video-dataset benchmark PE-Video -m PE-Core-L14-336 -o pvd.json
    """
    evaluation.run("video-retrieval", locals())
