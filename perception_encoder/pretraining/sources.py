"""The data of a run: folders that are read into memory, or shards that are read as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from perception_encoder.data.image_text import ImageTextSet
from perception_encoder.data.pairs import PairSource
from perception_encoder.data.streams import Shards, StreamConfig, open_shards
from perception_encoder.errors import DataError
from perception_encoder.models.clip import CLIP
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.vocabulary import CaptionVocabulary
from perception_encoder.progress import Track
from perception_encoder.ranks import Rank


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a run's pairs come from."""

    sets: Sequence[PairSource]
    weights: Sequence[float]
    names: Sequence[str]
    """What tells the data from others: its samples, or its shards."""
    samples: Mapping[str, int]
    """How many each source has."""
    vocabulary: CaptionVocabulary | None
    """The tokens of the captions, where all of these are known."""


class SourceConfig(Protocol):
    """What of a run's configuration decides how its data are read."""

    @property
    def weights(self) -> Mapping[str, float]: ...
    @property
    def balance(self) -> float: ...
    @property
    def image_side(self) -> int: ...
    @property
    def streams(self) -> StreamConfig: ...
    @property
    def frames(self) -> int | None: ...


def open_sources(
    config: SourceConfig,
    data: Sequence[Path | Shards],
    model: CLIP,
    rank: Rank,
    exchange: Callable[[Any], list[Any]],
    track: Track,
) -> Sources:
    """Open folders or shards; DataError for both at once, and for what cannot be trained on."""
    folders = [each for each in data if isinstance(each, Path)]
    shards = [each for each in data if isinstance(each, Shards)]
    if folders and shards:
        raise DataError(f"{folders[0]} is a folder to read into memory, {shards[0].place} is not; give one kind")
    return _stream(config, shards, rank, exchange, track) if shards else _load(config, folders, model, track)


def _load(config: SourceConfig, folders: Sequence[Path], model: CLIP, track: Track) -> Sources:
    if config.frames is not None:
        raise DataError("the run is on videos, which are read from shards: give --shards PLACE")
    by_source = ImageTextSet.from_folder(folders, "train", config.image_side, track).by_source()
    used = _weigh(config.weights, by_source)
    if not by_source:
        raise DataError(f"no image of {', '.join(map(str, folders))} can be used")
    if not used:
        raise DataError(f"no source of {', '.join(config.weights)} in the data, which has {', '.join(by_source)}")
    texts = {text for source in used for sample in by_source[source] for text in sample.captions}
    return Sources(
        sets=[by_source[source].balanced(config.balance) for source in used],
        weights=list(used.values()),
        names=[f"{source}/{sample.key}" for source in used for sample in by_source[source]],
        samples={source: len(by_source[source]) for source in used},
        vocabulary=CaptionVocabulary(tokenizer(model), texts),
    )


def _weigh(weights: Mapping[str, float], by_source: Mapping[str, ImageTextSet]) -> dict[str, float]:
    """The weights of the sources that are used: those given, or else the numbers of samples.

    A directory or table of the user's that no weight names counts by its samples beside the others.
    """
    sizes = {source: float(len(samples)) for source, samples in by_source.items()}
    if not weights:
        return sizes
    used = {source: weight for source, weight in weights.items() if weight > 0 and source in by_source}
    each = sum(used.values()) / sum(sizes[source] for source in used) if used else 1.0
    own = [source for source, samples in by_source.items() if source not in weights and not samples[0].of_shard]
    return used | {source: sizes[source] * each for source in own}


def _stream(
    config: SourceConfig,
    shards: Sequence[Shards],
    rank: Rank,
    exchange: Callable[[Any], list[Any]],
    track: Track,
) -> Sources:
    sets = open_shards(shards, config.streams, rank, exchange, track, config.frames)
    of_all = [(given.weight, shard) for given, found in zip(shards, sets, strict=True) for shard in found.shards]
    return Sources(
        sets=sets,
        weights=[given.weight for given in shards],
        names=[f"{weight} {shard.name} {shard.size} {dict(shard.samples)}" for weight, shard in of_all],
        samples={given.place: len(found) for given, found in zip(shards, sets, strict=True)},
        vocabulary=None,
    )
