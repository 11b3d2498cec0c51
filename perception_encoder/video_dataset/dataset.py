"""Open a dataset of captioned videos; describe it, select from it, and export the captions that people refined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_encoder.datasets.pe_video import VideoRecord, read_videos_of
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.entries import quoted
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import as_encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.progress import Track, untracked
from perception_encoder.video_dataset.annotation.export import (
    ExportCounts,
    ImportCounts,
    export_dataset,
    export_tasks,
    import_tasks,
)
from perception_encoder.video_dataset.annotation.progress import ProjectProgress, count_progress
from perception_encoder.video_dataset.annotation.project import AnnotationProject
from perception_encoder.video_dataset.features import compute_features
from perception_encoder.video_dataset.selection import (
    ForestReport,
    SelectedVideo,
    categorise_videos,
    read_hand_scores,
    score_videos,
    select_videos,
)
from perception_encoder.video_dataset.tables import read_video_table, table_key

if TYPE_CHECKING:
    from perception_encoder.language_models.language_model import LanguageModel

NO_CATEGORY = "without a category"
BENCHMARK, ALL = "test", "all"
"""The split of table 16, and the name of the whole dataset."""


@dataclass(frozen=True)
class Spread:
    """A mean and a standard deviation; NaN without values."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values."""
        if not values:
            return cls(float("nan"), float("nan"), 0)
        return cls(float(np.mean(values)), float(np.std(values)), len(values))

    def __str__(self) -> str:
        return f"{self.mean:.1f}±{self.deviation:.1f}" if self.count else "–"


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """A row of table 3: one split, or the whole dataset."""

    videos: int
    refined: int
    """Videos with a refined caption."""
    simulated: int
    """Videos refined by a simulated annotator."""
    seconds: Spread
    """Length of a video, if the dataset states it."""
    hours: float
    model_words: Spread
    """Words of a model's caption."""
    refined_words: Spread


@dataclass(frozen=True)
class CategoryStatistics:
    """A row of table 16: videos with a refined caption, and its mean words."""

    category: str
    videos: int
    words: float


@dataclass(frozen=True)
class DatasetStatistics:
    """Both tables."""

    splits: Mapping[str, SplitStatistics]
    """By split; "all" is the whole dataset."""
    categories: Mapping[str, tuple[CategoryStatistics, ...]]
    """By split, the largest category first."""

    @property
    def benchmark(self) -> str:
        """The split of table 16: `test`, or the whole dataset if `test` has no refined captions."""
        return BENCHMARK if self.categories.get(BENCHMARK) else ALL

    def to_dict(self) -> dict[str, Any]:
        """Return both tables as JSON values."""
        return asdict(self)


def describe_dataset(records: Iterable[VideoRecord]) -> DatasetStatistics:
    """Compute the statistics of a dataset."""
    videos = list(records)
    splits: dict[str, list[VideoRecord]] = {}
    for record in videos:
        splits.setdefault(record.split, []).append(record)
    splits[ALL] = videos
    return DatasetStatistics(
        {split: _describe(members) for split, members in splits.items()},
        {split: _categories(members) for split, members in splits.items()},
    )


def _categories(records: Sequence[VideoRecord]) -> tuple[CategoryStatistics, ...]:
    words: dict[str, list[int]] = {}
    for record in records:
        if record.refined_caption:
            words.setdefault(record.category or NO_CATEGORY, []).append(len(record.refined_caption.split()))
    rows = [CategoryStatistics(name, len(counts), float(np.mean(counts))) for name, counts in words.items()]
    return tuple(sorted(rows, key=lambda row: (-row.videos, row.category)))


def _describe(records: Sequence[VideoRecord]) -> SplitStatistics:
    seconds = [record.duration for record in records if record.duration is not None]
    refined = [record for record in records if record.refined_caption]
    return SplitStatistics(
        videos=len(records),
        refined=len(refined),
        simulated=sum(record.refined_by == "simulated" for record in refined),
        seconds=Spread.of(seconds),
        hours=sum(seconds) / 3600,
        model_words=Spread.of([len(record.model_caption.split()) for record in records if record.model_caption]),
        refined_words=Spread.of([len(record.refined_caption.split()) for record in refined]),
    )


@dataclass(frozen=True)
class ScoredVideo:
    """A video's interest score and category."""

    key: str
    """SPLIT/KEY."""
    score: float
    """Interest score, from 0 to 5."""
    category: str
    probability: float
    """Probability of the category."""


@dataclass(frozen=True, kw_only=True)
class VideoSelection:
    """Selected videos with all scores."""

    videos: tuple[SelectedVideo, ...]
    """The best of each cluster first."""
    scored: Mapping[str, ScoredVideo]
    """All videos by key."""
    report: ForestReport
    """How well the scores predict the hand scores."""
    features: Path
    """The directory of the features."""
    failures: tuple[InputError, ...]
    """Videos without a score because they cannot be decoded."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the selected videos with their categories, as rows of a table."""
        return [{**vars(video), **vars(self.scored[video.key])} for video in self.videos]


class VideoDataset:
    """A dataset of captioned videos and the annotation project of its captions; see `open_video_dataset`.

    Examples:
        >>> for record in pe.open_video_dataset("PE-Video").records("test"):
        ...     print(record.key, record.refined_caption)
    """

    def __init__(self, path: Path, store: Path | None = None) -> None:
        self.path, self.store = path, store

    def records(self, split: str | None = None) -> Iterator[VideoRecord]:
        """Yield the videos of one split, or of "all", without reading their bytes.

        Raises DataError if the split does not exist or a file is damaged.
        """
        return read_videos_of(self.path, None if split == ALL else split)

    def rows(self, split: str | None = None) -> list[dict[str, Any]]:
        """Return a row per video: key, captions, category and length."""
        names = ("model_caption", "refined_caption", "refined_by", "category", "duration", "frame_rate")
        return [
            {"key": table_key(record), **{name: getattr(record, name) for name in names}}
            for record in self.records(split)
        ]

    def stats(self) -> DatasetStatistics:
        """Return counts, lengths and words of captions by split, and categories, as in the paper's tables 3 and 16."""
        return describe_dataset(self.records())

    def select(
        self,
        hand_scores: str | Path | Mapping[str, float],
        count: int = 1000,
        *,
        features: str | Path | None = None,
        model: str | Encoder | None = None,
        ask_model: str | LanguageModel | None = None,
        track: Track = untracked,
    ) -> VideoSelection:
        """Select varied, interesting videos without near-duplicates, as in the paper's appendix A.2.

        A random forest fitted on the hand scores scores every video by its motion, embedding and answers.

        Args:
            hand_scores: 0 to 5 by SPLIT/KEY, or a table of `key` and `score`.
            count: Maximum number of selected videos, the best of each k-means cluster first.
            features: Directory in which the videos' features are computed, or resumed; by default PATH/features.
            model: An encoder, or its name; by default the default model.
            ask_model: A vision-language model, or its name, that answers 26 yes/no questions about each video.

        Raises:
            DataError: There are too few hand scores, one is invalid or of no video, or no video can be decoded.
            ModelError: A model cannot be loaded.
            MissingExtraError: The extra `eval` is not installed.
        """
        if isinstance(hand_scores, (str, Path)):
            hand_scores = read_hand_scores(Path(hand_scores))
        directory = Path(features or (self.path if self.path.is_dir() else self.path.parent) / "features")
        encoder = as_encoder(model)
        if isinstance(ask_model, str):
            from perception_encoder.language_models.load import load_language_model

            ask_model = load_language_model(ModelSpec(ask_model))
        table = compute_features(self.path, directory, encoder, ask_model, track)
        scores, report = score_videos(table, hand_scores)
        categories = categorise_videos(table, encoder)
        scored = map(ScoredVideo, table.keys, scores.tolist(), *zip(*categories, strict=True))
        return VideoSelection(
            videos=tuple(select_videos(table, scores, min(count, len(table)))),
            scored={video.key: video for video in scored},
            report=report,
            features=directory,
            failures=table.failures,
        )

    def progress(self) -> ProjectProgress:
        """Return counts of annotated videos, each person's pace, and the agreement of double annotations."""
        with self.project() as project:
            return count_progress(project)

    def export(
        self,
        out: str | Path,
        *,
        refined_only: bool = False,
        selection: str | Path | None = None,
        track: Track = untracked,
    ) -> ExportCounts:
        """Write the dataset with its refined captions to a new directory of tars; return the counts.

        Args:
            out: The directory.
            refined_only: Leave out videos without a refined caption.
            selection: A table of the only videos to write, whose scores and categories become `interest_score` and
                `category_name`.
        """
        fields: dict[str, dict[str, Any]] | None = None
        if selection is not None:
            fields = {}
            for key, row in read_video_table(Path(selection)).items():
                fields[key] = {}
                if row.get("score") is not None:
                    fields[key]["interest_score"] = _number(row["score"], key)
                if row.get("category") is not None:
                    fields[key]["category_name"] = row["category"]
        with self.project(track) as project:
            return export_dataset(project, Path(out), refined_only=refined_only, selection=fields, track=track)

    def export_tasks(self, out: str | Path, video_prefix: str = "") -> int:
        """Write all annotations as Label Studio tasks; return the number of videos.

        `video_prefix`: the address of the videos, which comes before KEY.mp4.
        """
        with self.project() as project:
            return export_tasks(project, Path(out), video_prefix)

    def import_tasks(self, file: str | Path) -> ImportCounts:
        """Add annotations exported by Label Studio as JSON, all or none, without those already present."""
        with self.project() as project:
            return import_tasks(project, Path(file))

    @contextmanager
    def project(self, track: Track = untracked) -> Iterator[AnnotationProject]:
        """Open the annotation project after reading new and changed tars."""
        with closing(AnnotationProject(self.path, self.store)) as project:
            project.update(track)
            yield project


def _number(value: Any, key: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"the score of {key} is {quoted(value)}; it must be a number") from None


def open_video_dataset(path: str | Path, store: str | Path | None = None) -> VideoDataset:
    """Open a dataset of captioned videos.

    Args:
        path: A directory in the layout of the PE Video Dataset (`train/*.tar` and so on, of KEY.mp4 and KEY.json), one
            tar, or an output of `run_engine`.
        store: The file of its annotations; by default PATH/annotations.sqlite.

    Examples:
        >>> dataset = pe.open_video_dataset("PE-Video")
        >>> print(dataset.stats().splits["all"].hours)
    """
    return VideoDataset(Path(path), None if store is None else Path(store))
