"""Sections of contact sheets: hits of each query, and files by their most probable label."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from perception_encoder.errors import InputError
from perception_encoder.inference.collection import Collection
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import Media, open_media
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.search.index.rows import IndexRow
from perception_encoder.search.query.galleries import best_moment
from perception_encoder.search.query.search import Hit
from perception_encoder.search.query.terms import Query
from perception_encoder.search.web.pages import Section, Tile, link_to


def name_query(query: Query) -> str:
    """Return a query as a heading: words in quotes, an image by its file name."""
    return f"like {_file_name(query.name)}" if query.kind in ("image", "video") else f"“{query.name}”"


def query_sections(queries: Sequence[Query], results: Sequence[Sequence[Hit]], page: Path) -> Iterator[Section]:
    """Yield a section with the hits of each query, for a sheet at `page`."""
    for query, hits in zip(queries, results, strict=True):
        source = query.terms[0].source if query.kind in ("image", "video") else None
        image = open_preview(source) if isinstance(source, (Media, IndexRow)) else None
        yield Section(heading=name_query(query), tiles=(_hit_tile(hit, page) for hit in hits), image=image)


def duplicate_sections(groups: Sequence[Sequence[Hit]], page: Path) -> Iterator[Section]:
    """Yield a section for each group of near-duplicates, for a sheet at `page`."""
    for number, group in enumerate(groups, 1):
        yield Section(heading=f"Group {number}", tiles=(_hit_tile(hit, page) for hit in group))


def _hit_tile(hit: Hit, page: Path) -> Tile:
    score = f"{hit.score:.3f}"
    value = score if hit.probability is None else f"{hit.probability:.0%} · {score}"
    return replace(_tile(hit.item, hit.time, page, value, hit.row), share=hit.probability)


@dataclass(frozen=True)
class Naming:
    """Files with the labels that a model gave them."""

    encoder: Encoder
    collection: Collection
    guesses: Sequence[Sequence[tuple[str, float]]]
    """Labels and probabilities of each file, best first."""
    class_vectors: dict[str, np.ndarray]
    """Unit vectors (D,) by label; they choose the frame of a video."""

    def tile(self, row: int, page: Path) -> Tile:
        """Return a file's tile: its name, its best label's probability, the other labels below."""
        item, ((label, share), *others) = self.collection.items[row], self.guesses[row]
        is_video, vector = self.collection.is_video[row], self.class_vectors[label]
        time = best_moment(self.encoder, item, vector) if is_video else None
        rest = " · ".join(f"{other} {each:.0%}" for other, each in others)
        return replace(_tile(item, time, page, f"{share:.0%}"), share=share, details=(rest,))

    def sections(self, page: Path) -> Iterator[Section]:
        """Yield a section for each label that is a file's best, most frequent first, with the surest files first."""
        by_label: dict[str, list[int]] = {}
        for row, ranked in enumerate(self.guesses):
            by_label.setdefault(ranked[0][0], []).append(row)
        for label, rows in sorted(by_label.items(), key=lambda entry: -len(entry[1])):
            rows.sort(key=lambda row: -self.guesses[row][0][1])
            tiles = (self.tile(row, page) for row in rows)
            yield Section(heading=label, tiles=tiles, note=f"{len(rows)} of {len(self.guesses)}")

    def section(self, heading: str, note: str, page: Path) -> Section:
        """Return a section of all files in their order, each with its best label as the caption."""
        tiles = (self._under_label(self.tile(row, page), row) for row in range(len(self.guesses)))
        return Section(heading=heading, tiles=tiles, note=note)

    def _under_label(self, tile: Tile, row: int) -> Tile:
        return replace(tile, caption=self.guesses[row][0][0], details=(tile.caption, *tile.details))


def _tile(item: Item, time: float | None, page: Path, value: str, row: IndexRow | None = None) -> Tile:
    try:
        source: Media | IndexRow = row or item.media()
        if time is not None and isinstance(source, Media):
            source = replace(source, start=time, end=time)
        image = open_preview(source)
    except InputError:
        image = None
    link = link_to(item.source, page) if isinstance(item.source, (Path, str)) else None
    return Tile(image=image, caption=_file_name(item.path), hint=item.id, value=value, time=time, link=link)


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]


def open_preview(source: Media | IndexRow) -> Image.Image | None:
    """Open an image, a video's first frame, or a row's thumbnail; return None for a text."""
    if isinstance(source, IndexRow):
        return Image.open(io.BytesIO(source.thumbnail)) if source.thumbnail else None
    opened = open_media(source, frames=1)
    if isinstance(opened, VideoFrames):
        return opened.images[0]
    return opened if isinstance(opened, Image.Image) else None
