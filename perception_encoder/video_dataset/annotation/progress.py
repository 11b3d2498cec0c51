"""Progress of a project: counts, pace, agreement of double annotations, and refined captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from perception_encoder.video_dataset.annotation.project import AnnotationProject


@dataclass(frozen=True, kw_only=True)
class PersonProgress:
    """The work of one person."""

    name: str
    done: int
    skipped: int
    reviewed: int
    seconds: float | None
    """Mean working time per submitted video, in seconds; None before the first."""


@dataclass(frozen=True, kw_only=True)
class ProjectProgress:
    """The state of a project."""

    videos: int
    done: int
    """Videos with all the annotations they need."""
    begun: int
    """Videos with a draft or an annotation, but fewer finished ones than they need."""
    skipped: int
    """Videos that people skipped and nobody annotated."""
    reviewed: int
    """Videos with an approved annotation."""
    people: tuple[PersonProgress, ...]
    agreement: Agreement

    @property
    def hours_left(self) -> float | None:
        """Estimated working hours for the remaining videos at the mean pace so far; None before the first."""
        times = [(person.seconds, person.done) for person in self.people if person.seconds is not None]
        if not times:
            return None
        mean = sum(seconds * done for seconds, done in times) / sum(done for _, done in times)
        return (self.videos - self.done - self.skipped) * mean / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the remaining hours as JSON values."""
        return {**asdict(self), "hours_left": self.hours_left}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of two people, averaged over all double annotations; None if nothing can be compared."""

    videos: int
    similarity: float | None
    """Mean share of words in common: see `word_similarity`."""
    ratings: float | None
    """Krippendorff's alpha of the ratings, with squared differences."""

    def __str__(self) -> str:
        parts = {"words in common": self.similarity, "alpha of ratings": self.ratings}
        values = ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if value is not None)
        return f"agreement on {self.videos} videos: {values}"


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """A video's refined caption."""

    tar: str
    key: str
    original: str
    caption: str
    rating: int | None
    reviewed: bool


def count_progress(project: AnnotationProject) -> ProjectProgress:
    """Count a project's videos by state and each person's work, and measure the agreement."""
    with project.reading() as connection:
        rows = connection.execute(
            "SELECT clips.needed, sum(state = 'done') AS done, sum(state = 'draft') AS drafts, "
            "sum(state = 'skipped') AS skips, sum(EXISTS (SELECT 1 FROM reviews WHERE annotation = annotations.id "
            "AND reviews.state = 'done')) AS reviewed FROM annotations JOIN clips ON clips.id = annotations.clip "
            "WHERE clips.size > 0 GROUP BY clips.id"
        ).fetchall()
        (videos,) = connection.execute("SELECT count(*) FROM clips WHERE size > 0").fetchone()
        people = connection.execute(
            "SELECT name, coalesce(sum(state = 'done'), 0) AS done, coalesce(sum(state = 'skipped'), 0) AS skipped, "
            "(SELECT count(*) FROM reviews WHERE reviews.person = name AND reviews.state = 'done') AS reviewed, "
            "avg(CASE WHEN state = 'done' THEN seconds END) AS seconds FROM people LEFT JOIN annotations "
            "ON annotations.person = name GROUP BY name ORDER BY name"
        ).fetchall()
    return ProjectProgress(
        videos=videos,
        done=sum(row["done"] >= row["needed"] for row in rows),
        begun=sum(row["done"] < row["needed"] and row["done"] + row["drafts"] > 0 for row in rows),
        skipped=sum(row["skips"] == row["skips"] + row["done"] + row["drafts"] for row in rows),
        reviewed=sum(row["reviewed"] > 0 for row in rows),
        people=tuple(PersonProgress(**dict(row)) for row in people),
        agreement=measure_agreement(project),
    )


def measure_agreement(project: AnnotationProject) -> Agreement:
    """Compare the first two annotations of every video with at least two."""
    with project.reading() as connection:
        rows = connection.execute(
            "SELECT clip, clips.caption AS original, annotations.caption, rating FROM annotations "
            "JOIN clips ON clips.id = clip WHERE state = 'done' ORDER BY clip, annotations.id"
        ).fetchall()
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row["clip"])]
    pairs = [(group[0], group[1]) for group in groups if len(group) > 1]
    ratings = [(a["rating"], b["rating"]) for a, b in pairs if None not in (a["rating"], b["rating"])]
    return Agreement(
        videos=len(pairs),
        similarity=fmean(word_similarity(a["caption"], b["caption"]) for a, b in pairs) if pairs else None,
        ratings=interval_alpha(ratings),
    )


def read_refinements(project: AnnotationProject) -> Iterator[Refinement]:
    """Yield the refined caption of each video with one: the approved one, else the earliest."""
    with project.reading() as connection:
        rows = connection.execute(
            "SELECT clip, tars.path AS tar, clips.key, clips.caption AS original, annotations.rating, "
            "coalesce(reviews.caption, annotations.caption) AS caption, reviews.annotation IS NOT NULL AS reviewed "
            "FROM annotations JOIN clips ON clips.id = clip JOIN tars ON tars.id = clips.tar "
            "LEFT JOIN reviews ON reviews.annotation = annotations.id AND reviews.state = 'done' "
            "WHERE annotations.state = 'done' ORDER BY clip, reviewed DESC, annotations.id"
        ).fetchall()
    for _, group in groupby(rows, key=lambda row: row["clip"]):
        values = dict(next(group))
        del values["clip"]
        yield Refinement(**{**values, "reviewed": bool(values["reviewed"])})


def interval_alpha(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Krippendorff's alpha of two values per item, on the interval scale; None if all are equal."""
    values = [value for pair in pairs for value in pair]
    if len(set(values)) < 2:
        return None
    count, total = len(values), sum(values)
    expected = 2 * (count * sum(value**2 for value in values) - total**2) / (count * (count - 1))
    observed = fmean((a - b) ** 2 for a, b in pairs)
    return 1 - observed / expected


def word_similarity(first: str, second: str) -> float:
    """Return the share of words in the captions' longest common subsequence: 1 for equal captions."""
    words, others, places = first.split(), second.split(), defaultdict[str, int](int)
    for place, word in enumerate(words):
        places[word] |= 1 << place
    free = all_free = (1 << len(words)) - 1  # bits of words outside the subsequence (Hyyrö 2004)
    for word in others:
        matched = free & places.get(word, 0)
        free = (free + matched | free - matched) & all_free
    total = len(words) + len(others)
    return 2 * (len(words) - free.bit_count()) / total if total else 1.0
