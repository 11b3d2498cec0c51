"""Write shards of labelled images, and read their metadata."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from perception_encoder.formats.shards import (
    ShardSample,
    json_bytes,
    json_object,
    read_members,
    split_member,
    write_members,
)


def write_shard(path: Path, samples: Iterable[ShardSample]) -> int:
    """Write `samples` in order as the tar file `path`, atomically; return their number."""
    members = (
        member
        for sample in samples
        for member in (
            (f"{sample.key}.{sample.extension}", sample.image),
            (f"{sample.key}.json", json_bytes(sample.metadata)),
        )
    )
    return write_members(path, members) // 2


def read_metadata(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key and the JSON of each sample, in order; DataError if the tar is damaged."""
    for name, content in read_members(path, ("json",)):
        key, _ = split_member(name)
        yield key, json_object(f"{path}: {key}", content)
