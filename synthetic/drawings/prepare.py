"""Make training shards of drawings from the public sources: fetch, draw, drop near-duplicates, write.

    OUT/train/noto.tar  OUT/train/twemoji.tar  OUT/train/openclipart.tar  OUT/unseen/openmoji.tar

A source whose shard is there is finished and not done again.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from perception_encoder.errors import MediaDecodeError
from perception_encoder.formats.shards import ShardSample
from perception_encoder.progress import Track, untracked
from synthetic.drawings.rasterize import rasterize
from synthetic.drawings.read import Drawing, read_emoji, read_openclipart
from synthetic.drawings.sources import EMOJI_NAMES, DrawingSource
from synthetic.packages import fetch_debian, fetch_npm
from synthetic.shards import write_shard

logger = logging.getLogger(__name__)

THUMBNAIL = 16  # side at which two images are compared
SAME_LABEL, OTHER_LABEL = 0.02, 0.003  # largest squared difference of duplicates, over the squared ink of both


@dataclass(frozen=True, kw_only=True)
class PreparedSource:
    """The outcome of preparing one source."""

    name: str
    shard: Path
    written: int
    """Samples in the shard; 0 if `finished_before`."""
    duplicates: int
    failures: tuple[MediaDecodeError, ...]
    """Drawings that could not be drawn."""
    finished_before: bool = False


def prepare_source(
    source: DrawingSource, out: Path, side: int = 144, jobs: int | None = None, track: Track = untracked
) -> PreparedSource:
    """Fetch and draw one source, (side, side) px PNGs over white, into `out/SPLIT/NAME.tar`.

    `jobs` is the number of drawing processes (by default the CPU's cores). Raises `DataError` if the source
    cannot be fetched, `OutputError` if the shard cannot be written.
    """
    shard = out / source.split / f"{source.name}.tar"
    if shard.exists():
        return PreparedSource(name=source.name, shard=shard, written=0, duplicates=0, failures=(), finished_before=True)
    with tempfile.TemporaryDirectory(prefix="pe-data-") as directory:
        drawings = read_source(source, Path(directory))
    drawn, failures = draw(drawings, side, source.name, jobs, track)
    distinct = drop_near_duplicates(drawn) if source.near_duplicates else drawn
    written = write_shard(shard, (_sample(drawing, png, source) for drawing, png in distinct))
    return PreparedSource(
        name=source.name,
        shard=shard,
        written=written,
        duplicates=len(drawn) - written,
        failures=tuple(failures),
    )


def read_source(source: DrawingSource, directory: Path) -> list[Drawing]:
    """Fetch a source into `directory` and read its drawings."""
    if source.registry == "debian":
        return list(read_openclipart(fetch_debian(source.package, directory / "debian"), source))
    names = fetch_npm(EMOJI_NAMES, directory / "names")
    return list(read_emoji(fetch_npm(source.package, directory / "icons"), names, source))


def draw(
    drawings: Sequence[Drawing], side: int, name: str, jobs: int | None = None, track: Track = untracked
) -> tuple[list[tuple[Drawing, bytes]], list[MediaDecodeError]]:
    """Rasterise in several processes; returns the drawn ones with their PNGs, in order, and the failures."""
    drawn: list[tuple[Drawing, bytes]] = []
    failures: list[MediaDecodeError] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=context) as pool:
        tasks = [(drawing.svg, side, f"{name}/{drawing.key}") for drawing in drawings]
        results = pool.map(_draw_one, tasks, chunksize=16)
        for drawing, result in zip(drawings, track(results, f"drawing {name}", len(tasks)), strict=True):
            if isinstance(result, MediaDecodeError):
                logger.warning("skipped %s", result)
                failures.append(result)
            else:
                drawn.append((drawing, result))
    return drawn, failures


def _draw_one(task: tuple[bytes, int, str]) -> bytes | MediaDecodeError:
    try:
        image = rasterize(*task)
    except MediaDecodeError as error:
        return error
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def drop_near_duplicates(drawn: Sequence[tuple[Drawing, bytes]]) -> list[tuple[Drawing, bytes]]:
    """Keep one of each group of images that look alike: the first of those of the lowest rank.

    Images of different labels must be closer to be duplicates: an icon often differs from another by a detail.
    """
    if not drawn:
        return []
    ink = np.stack([_ink(png) for _, png in drawn])  # (n, 3 · THUMBNAIL²), 0 is white
    energy = (ink**2).sum(axis=1)
    labels = np.array([drawing.label for drawing, _ in drawn])
    chosen: list[int] = []
    for index in sorted(range(len(drawn)), key=lambda i: drawn[i][0].rank):
        difference = energy[chosen] + energy[index] - 2 * ink[chosen] @ ink[index]
        limit = np.where(labels[chosen] == labels[index], SAME_LABEL, OTHER_LABEL)
        if not (difference < limit * (energy[chosen] + energy[index])).any():
            chosen.append(index)
    return [drawn[index] for index in sorted(chosen)]


def _ink(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return 1 - np.asarray(small, dtype=np.float32).ravel() / 255


def _sample(drawing: Drawing, png: bytes, source: DrawingSource) -> ShardSample:
    metadata = {
        "source": source.name,
        "label": drawing.label,
        "tags": list(drawing.tags),
        "licence": drawing.licence,
        "attribution": drawing.attribution,
    }
    return ShardSample(drawing.key, "png", png, metadata)
