"""Pack image-caption pairs of a directory or a table into WebDataset shards.

Training mixes samples of a few shards at a time, so the samples are shuffled before they are packed, always in the
same way: the same input makes the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, MediaDecodeError
from perception_encoder.files import replacing_new, writing
from perception_encoder.formats.shards import add_member, json_bytes, new_tar
from perception_encoder.formats.tables import read_rows
from perception_encoder.preprocess.image import image_file, open_image
from perception_encoder.preprocess.source import IMAGE_SUFFIXES, SHARD_IMAGES, TABLE_SUFFIXES, escape_name, open_source
from perception_encoder.progress import Track, untracked
from perception_encoder.records import parse_json

TEXT_SUFFIXES = (".txt", ".caption", ".json")
QUALITY = 92  # of re-encoded JPEGs
AHEAD = 64  # images read ahead per core

Candidate = tuple[Path, tuple[tuple[str, bytes | Path], ...]]
"""An unread image file, and its texts as contents or paths, by extension."""


@dataclass(frozen=True)
class ShardSize:
    """Maximum size of a shard."""

    samples: int | None = None
    bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> ShardSize:
        """Parse "1000" (samples) or "500MB"; ConfigError for anything else."""
        match = re.fullmatch(r"([1-9]\d*)\s*(MB)?", text.strip(), re.IGNORECASE)
        if match is None:
            raise ConfigError(f"size {text!r}: give a number of samples, such as 1000, or of megabytes, such as 500MB")
        return cls(bytes=int(match[1]) * 10**6) if match[2] else cls(samples=int(match[1]))

    def is_full(self, samples: int, size: int) -> bool:
        """Return whether a shard with this many samples and bytes is full."""
        return samples >= self.samples if self.samples is not None else size >= (self.bytes or 0)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Result of `pack`."""

    shards: int
    samples: int
    failures: tuple[InputError, ...]


def pack(source: Path, out: Path, size: ShardSize, side: int | None = None, track: Track = untracked) -> Packed:
    """Write the pairs of a directory or table as `OUT/00000.tar` and so on; if that fails, write nothing.

    Every image is decoded to check it. `side`: images with a longer short side are scaled down to it, as JPEG. Bad
    inputs are left out. Raises DataError if there are no pairs, OutputError if `out` has files.
    """
    if source.is_dir():
        pairs = list(_directory_pairs(source))
    elif source.suffix.lower() in TABLE_SUFFIXES:
        pairs = list(_table_pairs(source))
    else:
        raise DataError(f"{source} is neither a directory nor a table ({', '.join(sorted(TABLE_SUFFIXES))})")
    failures = [pair for pair in pairs if isinstance(pair, InputError)]
    candidates = [pair for pair in pairs if not isinstance(pair, InputError)]
    shuffled = [candidates[at] for at in np.random.default_rng(0).permutation(len(candidates))]
    shards = done = count = total = 0
    with writing(out), replacing_new(out) as temporary, ExitStack() as opened:
        for sample in track(_read_all(shuffled, side), f"packing {escape_name(source.name)}", len(shuffled)):
            if isinstance(sample, InputError):
                failures.append(sample)
                continue
            if not done or size.is_full(count, total):
                opened.close()
                tar = opened.enter_context(new_tar(temporary / f"{shards:05d}.tar"))
                shards, count, total = shards + 1, 0, 0
            for extension, content in sample:
                add_member(tar, f"{done:08d}.{extension}", content)
                total += len(content)
            count, done = count + 1, done + 1
        if not done:
            first = f"; the first is {failures[0]}" if failures else ""
            raise DataError(f"{source}: no images with captions; {len(failures)} inputs cannot be used{first}")
    return Packed(shards=shards, samples=done, failures=tuple(failures))


def _directory_pairs(directory: Path) -> Iterator[Candidate | InputError]:
    """Yield images with the texts beside them; without texts, the label is the directory's name."""
    for path in sorted(path for path in directory.rglob("*") if not path.name.startswith(".")):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        beside = (path.with_suffix(suffix) for suffix in TEXT_SUFFIXES)
        texts: tuple[tuple[str, bytes | Path], ...]
        texts = tuple((text.suffix[1:], text) for text in beside if text.exists())
        if not texts and path.parent != directory:
            label = re.sub(r"[_\s]+", " ", escape_name(path.parent.name)).strip()
            texts = (("json", json_bytes({"source": escape_name(directory.resolve().name), "label": label})),)
        if texts:
            yield path, texts
        else:
            yield InputError(
                escape_name(path), "has no caption: no .txt, .caption or .json beside it, and no class directory"
            )


def _table_pairs(table: Path) -> Iterator[Candidate | InputError]:
    """Yield rows with a text and a path, which is resolved relative to the table first."""
    for number, row in enumerate(read_rows(table), 1):
        position = f"{escape_name(table)}:{number}"
        if isinstance(row, InputError):
            yield row
        elif row.path is None or row.text is None:
            yield InputError(position, f"has no {'path' if row.path is None else 'caption'}")
        elif "://" in row.path:
            yield InputError(position, f"{row.path} is a URL; download it first, for example with img2dataset")
        else:
            beside = table.parent / row.path
            yield beside if beside.exists() else Path(row.path), (("txt", row.text.encode()),)


def _read_all(candidates: Sequence[Candidate], side: int | None) -> Iterator[list[tuple[str, bytes]] | InputError]:
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        for at in range(0, len(candidates), AHEAD * cores):
            yield from pool.map(lambda item: _read(item, side), candidates[at : at + AHEAD * cores])


def _read(candidate: Candidate, side: int | None) -> list[tuple[str, bytes]] | InputError:
    """Return a sample's files by extension; images are converted to JPEG if shards do not support their format."""
    path = candidate[0]
    try:
        with open_source(path) as (stream, name):
            content = stream.read()
        image = open_image(content, name, reduce_to=None if side is None else 2 * side)
        texts = [(extension, _read_text(extension, text)) for extension, text in candidate[1]]
    except InputError as error:
        return error
    extension, short = path.suffix[1:].lower(), min(image.size)
    fits = side is None or short <= side
    if fits and extension in SHARD_IMAGES:
        return [(extension, content), *texts]
    image = image.convert("RGB")
    if side is not None and not fits:
        width, height = (max(side, round(length * side / short)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return [("jpg", image_file(image, "JPEG", quality=QUALITY)), *texts]


def _read_text(extension: str, text: bytes | Path) -> bytes:
    if isinstance(text, bytes):
        return text
    with open_source(text) as (stream, name):
        content = stream.read()
    try:
        value = parse_json(content, object) if extension == "json" else content.decode()
    except ValueError as error:
        raise MediaDecodeError(name, f"cannot be read: {error}") from None
    if extension == "json" and not isinstance(value, dict):
        raise MediaDecodeError(name, "is not a JSON object")
    return content
