"""Write what a run made: one Parquet file, WebDataset shards with the clips, and a list of failures.

All of it is made from the journal, so that it may be written at any time, and again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.errors import DataError, InputError
from perception_encoder.files import replacing, write_text, writing
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.formats.tars import walk_tar
from perception_encoder.video_data_engine.journal import Journal
from perception_encoder.video_data_engine.record import FRAME_CAPTIONS, FRAMES, PROBE, SUMMARY, VIDEO_CAPTION
from perception_encoder.video_data_engine.videos.extract import extract_clip
from perception_encoder.video_data_engine.videos.listing import restore_item

logger = logging.getLogger(__name__)

CAPTIONS, SHARDS, QUARANTINE = "captions.parquet", "shards", "quarantine.jsonl"
_ROWS = 1000


def describe_clip(journal: Journal, key: str, models: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that is known about a finished clip; facts have the names of the published PE Video Dataset."""
    results = journal.results[key]
    frames, captions = results[FRAMES], results[FRAME_CAPTIONS]
    probe = journal.results[frames["video"]][PROBE]
    start, end = frames["start"], frames["end"]
    stop = probe["duration"] if end is None else min(end, probe["duration"])
    return {
        "video_id": key,
        "path": probe["path"],
        "start": start,
        "end": end,
        "video_duration_in_s": round(stop - (start or 0.0), 6),
        "fps": probe["fps"],
        "num_frames": probe["frames"],
        "width": probe["width"],
        "height": probe["height"],
        "codec": probe["codec"],
        "sha256": probe["sha256"],
        "title": probe["metadata"].get("title"),
        "description": probe["metadata"].get("description"),
        "keywords": probe["metadata"].get("keywords"),
        "category_name": probe["metadata"].get("category"),
        "frame_times": frames["times"],
        "video_caption": results[VIDEO_CAPTION]["text"],
        "captioned_times": captions["times"],
        "frame_captions": captions["captions"],
        "summary": results[SUMMARY]["text"],
        "finished": all(results[stage]["finished"] for stage in (VIDEO_CAPTION, FRAME_CAPTIONS, SUMMARY)),
        "models": dict(models),
    }


def write_captions(out: Path, journal: Journal, models: Mapping[str, Any]) -> Path:
    """Write `OUT/captions.parquet`, a row for each finished clip, by path and time; OutputError if that fails."""
    path = out / CAPTIONS
    rows = [describe_clip(journal, key, models) for key in journal.finished]
    rows.sort(key=lambda row: (row["path"], row["start"] or 0.0, row["video_id"]))
    with (
        writing(path, also=(pa.ArrowException,)),
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA) as writer,
    ):
        for group in _groups(rows, _ROWS):
            writer.write_table(pa.Table.from_pylist([{**r, "models": json.dumps(r["models"])} for r in group], _SCHEMA))
    return path


def write_shards(out: Path, journal: Journal, models: Mapping[str, Any], size: int, whole_only: bool = False) -> int:
    """Write the WebDataset shards that are missing or were not full; return how many there are.

    A sample is `KEY.mp4` (or another suffix), `KEY.json` and `KEY.txt`, the summary. `whole_only`: leave the last
    shard, if it is not full, for later. A clip whose file has gone is left out, with a warning.
    """
    count = 0
    for number, keys in enumerate(_groups(journal.finished, size)):
        path = out / SHARDS / f"{number:05}.tar"
        if len(keys) < size and whole_only:
            break
        if _samples(path) != len(keys):
            write_members(path, _members(journal, keys, models))
        count += 1
    return count


def _groups(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    yield from (keys[start : start + size] for start in range(0, len(keys), size))


def _samples(path: Path) -> int:
    """How many samples a shard has; 0 if it is missing or damaged."""
    try:
        with path.open("rb") as stream:
            return sum(entry.name.endswith(".txt") for entry in walk_tar(stream, os.fstat(stream.fileno()).st_size))
    except (OSError, DataError):
        return 0


def _members(journal: Journal, keys: Sequence[str], models: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    for key in keys:
        facts = describe_clip(journal, key, models)
        probe = journal.results[journal.results[key][FRAMES]["video"]][PROBE]
        try:
            suffix, content = extract_clip(restore_item(probe, facts["start"], facts["end"]))
        except InputError as error:
            logger.warning("left out of the shards: %s", error)
            continue
        yield f"{key}.{suffix}", content
        yield f"{key}.json", json_bytes(facts)
        yield f"{key}.txt", facts["summary"].encode()


def write_quarantine(out: Path, journal: Journal) -> Path:
    """Write `OUT/quarantine.jsonl`, a line for each video or clip that failed: stage, reason and cause."""
    lines = [json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in journal.failures.values()]
    write_text(out / QUARANTINE, "".join(lines))
    return out / QUARANTINE


_TEXTS, _NUMBERS = pa.list_(pa.string()), pa.list_(pa.float64())
_SCHEMA = pa.schema(
    {
        **dict.fromkeys(("video_id", "path"), pa.string()),
        **dict.fromkeys(("start", "end", "video_duration_in_s", "fps"), pa.float64()),
        **dict.fromkeys(("num_frames", "width", "height"), pa.int64()),
        **dict.fromkeys(("codec", "sha256", "title", "description", "keywords", "category_name"), pa.string()),
        "frame_times": _NUMBERS,
        "video_caption": pa.string(),
        "captioned_times": _NUMBERS,
        "frame_captions": _TEXTS,
        "summary": pa.string(),
        "finished": pa.bool_(),
        "models": pa.string(),
    }
)
