"""Write a run's results from its journal: a Parquet file, WebDataset shards with the clips, and a list of failures."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import av
import av.error
import pyarrow as pa
import pyarrow.parquet as pq
from av.container import InputContainer
from av.video.stream import VideoStream

from perception_encoder.datasets.pe_video import VideoRecord, read_video_tar
from perception_encoder.errors import DataError, InputError, MediaDecodeError
from perception_encoder.files import replacing, write_text, writing
from perception_encoder.formats.listing import Item
from perception_encoder.formats.shards import json_bytes, present_fields, write_members
from perception_encoder.preprocess.source import SHARD_VIDEOS, open_source
from perception_encoder.preprocess.video import INDEXED
from perception_encoder.preprocess.video_file import open_container
from perception_encoder.video_data_engine.journal import (
    FRAME_CAPTIONS,
    FRAMES,
    KEY,
    PROBE,
    SUMMARY,
    VIDEO_CAPTION,
    Journal,
)

logger = logging.getLogger(__name__)

_TEXT_FIELDS = ("title", "description", "keywords", "category_name")
CAPTIONS, SHARDS, QUARANTINE = "captions.parquet", "shards", "quarantine.jsonl"
SHARD_SIZE = 1000
"""Clips in a shard, and rows in a group of the Parquet file."""


def describe_clip(journal: Journal, key: str) -> dict[str, Any]:
    """Return everything known about a finished clip, under the names of the published PE Video Dataset."""
    results = journal.results[key]
    frames, captions = results[FRAMES], results[FRAME_CAPTIONS]
    probe = journal.results[frames["video"]][PROBE]
    start, end = float(frames["start"] or 0), frames["end"]
    stop = probe["duration"] if end is None else min(end, probe["duration"])
    return {
        "video_id": key,
        "start": start,
        "end": stop,
        "video_duration_in_s": round(stop - start, 6),
        "num_frames": max(1, round(probe["frames"] * (stop - start) / (probe["duration"] or 1))),
        **{name: probe[name] for name in ("path", "fps", "width", "height", "codec", "sha256")},
        **{name: probe["metadata"].get(name) for name in ("title", "description", "keywords")},
        "category_name": probe["metadata"].get("category"),
        "frame_times": frames["times"],
        "video_caption": results[VIDEO_CAPTION]["text"],
        "captioned_times": captions["times"],
        "frame_captions": captions["captions"],
        "summary": results[SUMMARY]["text"],
        "finished": all(results[stage]["finished"] for stage in (VIDEO_CAPTION, FRAME_CAPTIONS, SUMMARY)),
        "models": journal.models,
    }


def write_captions(out: Path, journal: Journal) -> Path:
    """Write `OUT/captions.parquet` with a row per finished clip, by path and time; OutputError if that fails."""
    path = out / CAPTIONS
    rows = [describe_clip(journal, key) for key in journal.finished]
    rows.sort(key=lambda row: (row["path"], row["start"], row["video_id"]))
    with writing(path, also=(pa.ArrowException,)), replacing(path) as temporary:
        table = pa.Table.from_pylist([{**row, "models": json.dumps(row["models"])} for row in rows], _SCHEMA)
        pq.write_table(table, temporary, row_group_size=SHARD_SIZE, write_page_checksum=True)
    return path


def write_shards(out: Path, journal: Journal, videos: Mapping[str, Item]) -> int:
    """Write the WebDataset shards that are missing or lack clips; return the number of shards.

    A sample is `KEY.mp4` (or another suffix), `KEY.json` and `KEY.txt`, the summary. `videos`: the listed videos by
    key. Only these are read, and only if they have not changed since they were captioned; other clips are taken from
    the shards of earlier runs. A clip that is in neither is left out with a warning.
    """
    stored, shards = read_shard_clips(out), range(0, len(journal.finished), SHARD_SIZE)
    present: dict[Path, list[str]] = {}
    for key, clip in stored.items():
        present.setdefault(clip.video.tar, []).append(key)
    for number, start in enumerate(shards):
        path, keys = out / SHARDS / f"{number:05}.tar", journal.finished[start : start + SHARD_SIZE]
        if present.get(path) != keys:
            write_members(path, _members(journal, keys, videos, stored))
    return len(shards)


def read_shard_clips(out: Path) -> dict[str, VideoRecord]:
    """Return the clips of a run's shards by key; damaged shards have none."""
    clips: dict[str, VideoRecord] = {}
    for path in sorted((out / SHARDS).glob("*.tar")):
        with suppress(DataError):
            records = list(read_video_tar(path))
            clips |= {record.key: record for record in records if KEY.fullmatch(record.key)}
    return clips


def _members(
    journal: Journal, keys: Sequence[str], videos: Mapping[str, Item], stored: Mapping[str, VideoRecord]
) -> Iterator[tuple[str, bytes]]:
    digests: dict[str, str] = {}
    for key in keys:
        facts, clip = describe_clip(journal, key), stored.get(key)
        try:
            if clip and all(clip.metadata.get(name) == facts[name] for name in ("sha256", "start", "end")):
                suffix, content = clip.extension, clip.video.read(key)
            else:
                suffix, content = _extract_known(journal.results[key][FRAMES], facts, videos, digests)
        except InputError as error:
            logger.warning("left out of the shards: %s", error)
            continue
        yield f"{key}.{suffix}", content
        caption = {"model_caption": facts["video_caption"]}  # the PE Video Dataset's name of what people refine
        yield f"{key}.json", json_bytes(present_fields({**facts, **caption}, _TEXT_FIELDS))
        yield f"{key}.txt", facts["summary"].encode()


def _extract_known(
    frames: Mapping[str, Any], facts: Mapping[str, Any], videos: Mapping[str, Item], digests: dict[str, str]
) -> tuple[str, bytes]:
    """Return `extract_clip` of a listed video that has not changed; InputError if it is unavailable.

    Paths in the journal are not used: whoever wrote it could have any file packed.
    """
    item = videos.get(frames["video"])
    if item is None:
        raise InputError(str(facts["path"]), "is not one of the videos that this run was given")
    if frames["video"] not in digests:
        with open_source(item.open(), item.name) as (stream, _):
            digests[frames["video"]] = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    if digests[frames["video"]] != facts["sha256"]:
        raise InputError(item.name, "has changed since it was captioned")
    return extract_clip(replace(item, start=frames["start"], end=frames["end"]))


def write_quarantine(out: Path, journal: Journal) -> Path:
    """Write `OUT/quarantine.jsonl` with stage, reason and cause of each failed video or clip, one per line."""
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


def extract_clip(item: Item) -> tuple[str, bytes]:
    """Return a clip's suffix, one of `SHARD_VIDEOS`, and its file: the bytes of a whole video, or a copied part.

    A part is an MP4 that begins at the key frame before the clip, with an edit list that hides the frames before it. A
    codec that MP4 does not support is copied to Matroska, which shows them. A few frames that others refer to may
    follow the end. Raises InputError.
    """
    source, suffix = item.open(), PurePosixPath(item.path).suffix.lower().removeprefix(".")
    if item.start is None and item.end is None and suffix in SHARD_VIDEOS:
        with open_source(source, item.name) as (stream, _):
            return suffix, stream.read()
    reason: av.error.FFmpegError | ValueError | None = None
    for suffix, container in (("mp4", "mp4"), ("mkv", "matroska")):
        try:
            return suffix, _copy(source, item.name, item.start or 0.0, item.end, container)
        except (av.error.FFmpegError, ValueError) as error:
            reason = error
    raise MediaDecodeError(item.name, f"cannot be copied to MP4 or Matroska: {reason}")


def _copy(source: Path | bytes, name: str, start: float, end: float | None, container: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory, open_source(source, name) as (stream, _):
        path = Path(directory, "clip")
        with open_container(stream, name) as (reader, video), av.open(str(path), "w", format=container) as writer:
            unit = video.time_base
            if unit is None:
                raise ValueError("its frames have no timestamps")
            copy = writer.add_stream_from_template(video)
            begin = (video.start_time or 0) + round(start / unit)
            if reader.format.name in INDEXED:
                reader.seek(begin, stream=video)
            until = None if end is None else begin + float((end - start) / unit)
            for packet in _timed(_packets(reader, video, begin, until)):
                packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
                packet.stream = copy
                writer.mux(packet)
        return path.read_bytes()


def _packets(reader: InputContainer, video: VideoStream, begin: int, end: float | None) -> list[Any]:
    """Return packets in decoding order, from the last key frame before tick `begin` to the last one before `end`."""
    chosen: list[Any] = []
    waiting: list[Any] = []  # shown later, but an earlier one may refer to it
    for packet in reader.demux(video):
        if packet.pts is None or not packet.size:
            continue
        if end is not None and packet.dts is not None and packet.dts >= end:
            break
        if packet.is_keyframe and packet.pts <= begin:
            chosen, waiting = [], []
        waiting.append(packet)
        if end is None or packet.pts < end - 0.5:
            chosen.extend(waiting)
            waiting = []
    return chosen


def _timed(packets: list[Any]) -> list[Any]:
    """Give packets without a decoding time, as in Matroska, evenly spaced times before the next known one."""
    step = next((packet.duration for packet in packets if packet.duration), 1)
    for later, packet in pairwise(reversed(packets)):
        if packet.dts is None:
            packet.dts = (later.pts if later.dts is None else later.dts) - step
    return [packet for packet in packets if packet.dts is not None]
