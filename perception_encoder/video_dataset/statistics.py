"""Statistics of a dataset: the paper's tables 3 (lengths and caption words) and 16 (benchmark categories)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perception_encoder.datasets.pe_video import VideoRecord

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
    """By split, the largest category first. Table 16 is that of `test`."""

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
