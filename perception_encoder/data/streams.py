"""Read image-text pairs from WebDataset tars during training, on disk or at any URL that fsspec supports.

The tars are read at random by a table of byte ranges (`shard_index`), not by webdataset's own pipelines: their shuffle
buffer is a state that cannot be restored mid-shard, and what a rank sees depends on the number of ranks. Here a sample
is a pure function of the seed, the step and the row, so a resumed run and any number of ranks see the same stream.
"""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from perception_encoder.data.pairs import SHARES, Pair, captions, object_name
from perception_encoder.data.shard_index import TEXTS, ShardSummary, load_table, open_storage, summarize_shard
from perception_encoder.errors import (
    ConfigError,
    DataError,
    MediaDecodeError,
    PerceptionEncoderError,
    needs_extra,
    one_line,
)
from perception_encoder.formats.shards import split_problem
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.tokenizer import clean
from perception_encoder.preprocess.video import read_frames
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import Rank
from perception_encoder.records import Checked, Positive, Share, parse_json

logger = logging.getLogger(__name__)

READERS = 16  # tars indexed at a time


@dataclass(frozen=True, kw_only=True)
class StreamConfig(Checked):
    """How to read shards."""

    captions: Mapping[str, Positive] = field(
        default_factory=lambda: {"txt": 1.0, "caption": 1.0, "text": 1.0, "label": 1.0}
    )
    """Share of each caption field, rescaled to those that a sample has: "txt" and "caption" are members KEY.txt and
    KEY.caption, every name is also one in KEY.json, a text or a list of texts; "label" is put into templates."""
    bad_share: Share = 0.01
    """Share of the samples (at least a thousand) that may be unreadable; others replace them."""
    skip_bad_shards: bool = False
    """Skip shards that cannot be read or have no pairs, with a warning instead of an error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.captions:
            raise ConfigError("streams.captions is empty; give fields, and a positive share to each")

    @property
    def texts(self) -> tuple[str, ...]:
        """Members that may contain captions."""
        in_json = self.captions.keys() - {"txt"}
        return tuple(text for text in TEXTS if text in self.captions or (text == "json" and in_json))


@dataclass(frozen=True)
class Shards:
    """Tars with training data at one location, and their weight among others."""

    location: str
    """A tar, a directory of tars, a glob, or braces as in `s3://bucket/{000..127}.tar`."""
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Shards:
        """Parse `PATH` or `PATH:WEIGHT`; ConfigError if the weight is not positive."""
        match = re.fullmatch(r"(?P<location>.+?)(?::(?P<weight>\d+(?:\.\d+)?))?", text)
        weight = float(match["weight"] or 1) if match else 0.0
        if match is None or weight <= 0:
            raise ConfigError(f"shards {text!r}: give PATH or PATH:WEIGHT with a positive weight")
        return cls(match["location"], weight)

    def find(self) -> list[str]:
        """Return the tars' paths or URLs in order; DataError if there are none, MissingExtraError without a package."""
        with needs_extra("train", "braceexpand"):
            from braceexpand import braceexpand
        try:
            urls = [tar for url in braceexpand(self.location) for tar in _find(url)]
        except PerceptionEncoderError:
            raise
        except Exception as error:  # each kind of storage raises its own
            raise DataError(f"{self.location}: cannot be listed: {one_line(error)}") from error
        if not urls:
            raise DataError(f"{self.location}: no tar files found")
        return urls


def _find(url: str) -> list[str]:
    files, path = open_storage(url)
    if glob.has_magic(path):
        pattern = path
    elif ("://" in url and path.endswith(".tar")) or not files.isdir(path):
        return [url]  # a tar at a URL without a look: a web server would send all of it
    else:
        pattern = f"{path.rstrip('/')}/*.tar"
    chain, double, last = url.rpartition("::")
    protocol = last.partition("://")[0] + "://" if "://" in last else ""
    urls = (item if "://" in item else protocol + item for item in sorted(files.glob(pattern)))
    return [chain + double + value for value in urls]


class ShardSet:
    """The pairs of some tars, read one at a time (see `pairs.PairSource`), from any number of threads.

    `frames`: number of uniform frames per video; None for images.
    """

    def __init__(self, shards: Sequence[ShardSummary], config: StreamConfig, frames: int | None = None) -> None:
        self.shards, self.config, self.frames = shards, config, frames
        self.medium = "image" if frames is None else "video"
        self.sizes = [shard.pairs(config.texts, self.medium) for shard in shards]
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def load(self, index: int, needed: int) -> Pair:
        """Read and decode a pair; InputError if its bytes, image or captions cannot be read."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        url, row = self.shards[shard].url, index - int(self._ends[shard]) + self.sizes[shard]
        try:
            table = load_table(url, self.config.texts, self.medium)
        except DataError as error:
            raise MediaDecodeError(f"{url}, pair {row}", str(error)) from error
        if len(table.keys) != self.sizes[shard]:
            raise MediaDecodeError(f"{url}, pair {row}", "the shard has changed since the run began")
        parts, name = table.read(row, self.config.texts, self.medium), table.name(row)
        texts = _read_texts(parts, self.config.captions, name)
        if self.frames is None:
            image = open_image(parts["image"], name, reduce_to=needed).convert("RGB")
            return Pair(torch.from_numpy(np.array(image)).permute(2, 0, 1), *texts)
        frames = read_frames(parts["video"], name, self.frames).images
        pixels = np.stack([np.asarray(frame.convert("RGB")) for frame in frames])
        return Pair(torch.from_numpy(pixels).permute(0, 3, 1, 2), *texts)


def _read_texts(
    parts: Mapping[str, bytes], caption_shares: Mapping[str, float], name: str
) -> tuple[dict[str, list[str]], dict[str, float], str]:
    """Return normalized captions by field, the fields' shares, and the label.

    Raises MediaDecodeError if there are none.
    """
    try:
        fields = parse_json(parts["json"], object) if "json" in parts else {}
        members = {part: parts[part].decode() for part in ("txt", "caption") if part in parts}
    except ValueError as error:
        raise MediaDecodeError(name, f"its captions cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise MediaDecodeError(name, "its .json is not an object")
    values: dict[str, Sequence[Any]] = {}
    shares: dict[str, float] = {}
    for field_name, share in caption_shares.items():
        value = members.get(field_name, fields.get(field_name))
        if field_name == "label" and value is not None:
            if not isinstance(value, (str, int, float)):
                raise MediaDecodeError(name, f"'label' is a {type(value).__name__}; it must be a string or a number")
            values |= {f"label: {kind}": texts for kind, texts in captions(object_name(fields)).items()}
            shares |= {f"label: {kind}": share * part for kind, part in SHARES.items()}
        else:
            values[field_name] = value if isinstance(value, list) else [value]
            shares[field_name] = share
    cleaned = {key: [clean(text) for text in texts if isinstance(text, str)] for key, texts in values.items()}
    cleaned = {key: full for key, texts in cleaned.items() if (full := [text for text in texts if text])}
    if not cleaned:
        there = ", ".join([*members, *fields]) or "none"
        raise MediaDecodeError(name, f"has no caption in {', '.join(caption_shares)}; there are {there}")
    label = object_name(fields) if isinstance(fields.get("label"), (str, int, float)) else ""
    return cleaned, shares, label


def open_shards(
    mixture: Sequence[Shards],
    config: StreamConfig,
    rank: Rank,
    exchange: Callable[[Any], list[Any]],
    track: Track = untracked,
    frames: int | None = None,
) -> list[ShardSet]:
    """Index all shards before training, sharing the work among ranks.

    `frames`: frames per video; None for images. Raises DataError for shards of another split than `train`, and for
    those that are unreadable or lack media with captions, unless they are to be skipped.
    """
    urls = [shards.find() for shards in mixture]
    everything = list(dict.fromkeys(url for item in urls for url in item))
    share = everything[rank.share(len(everything))]
    with ThreadPoolExecutor(READERS) as pool:
        summaries = list(track(pool.map(summarize_shard, share), "indexing shards", len(share)))
    by_url = {summary.url: summary for part in exchange(summaries) for summary in part}
    medium = "image" if frames is None else "video"
    problems = {url: problem for url, shard in by_url.items() if (problem := _problem(shard, config, medium))}
    if problems and not config.skip_bad_shards:
        raise DataError(
            f"{len(problems)} of {len(by_url)} shards cannot be used (streams.skip_bad_shards=true leaves them out): "
            + "; ".join(list(problems.values())[:3])
        )
    for problem in problems.values():
        logger.warning("left out: %s", problem)
    sets = [[by_url[url] for url in value if url not in problems] for value in urls]
    for shards, usable in zip(mixture, sets, strict=True):
        if not usable:
            raise DataError(f"{shards.location}: none of the shards can be used")
    for shard in by_url.values():
        lacking = sum(shard.samples.values()) - shard.pairs(config.texts, medium)
        if lacking and shard.url not in problems:
            logger.warning("left out %d samples of %s that lack a %s or a caption", lacking, shard.url, medium)
    return [ShardSet(usable, config, frames) for usable in sets]


def _problem(shard: ShardSummary, config: StreamConfig, medium: str) -> str | None:
    """Return why a shard cannot be used, or None."""
    if problem := shard.problem or split_problem(shard.url, "train"):
        return problem
    if shard.pairs(config.texts, medium):
        return None
    content = ", ".join(f"{members} ({count})" for members, count in list(shard.samples.items())[:5]) or "nothing"
    return f"{shard.url}: no {medium}s with captions in {', '.join(config.captions)}; its samples hold {content}"
