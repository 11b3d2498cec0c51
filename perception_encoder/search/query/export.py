"""Export an index for other programs: as `pe embed` writes (numpy, Parquet, Lance), or as a FiftyOne dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perception_encoder.errors import MissingExtraError, OutputError
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.inference.pipeline import Embedding
from perception_encoder.search.index.index import Index
from perception_encoder.search.index.rows import IndexRow
from perception_encoder.search.query.galleries import item_of

_GROUP = 1000  # samples added at a time
_FIELDS = ("start", "stop", "time", "length", "date", "size")


def export_vectors(index: Index, out: Path, overwrite: bool = False) -> int:
    """Write an index's vectors as `pe embed` does, newest first; return their number.

    `out`: .parquet, .lance, or a directory of .npy in clip-retrieval's layout. A moment of a video is a row with its
    `start`, `end` and, in `times`, the second of its frame. Raises ConfigError, OutputError.
    """
    rows = index.rows()
    if not rows:
        raise OutputError(f"the index of {index.directory} is empty, so there is nothing to write")
    with EmbeddingWriter(out, index.settings, overwrite=overwrite) as writer:
        writer.add([Embedding(item_of(index, row), row.vector, _times(row)) for row in rows])
        return writer.finish()


def _times(row: IndexRow) -> tuple[float, ...]:
    return () if row.time is None else (row.time,)


def export_fiftyone(index: Index, name: str, overwrite: bool = False) -> dict[str, int]:
    """Create persistent FiftyOne datasets of an index; return their names and numbers of samples.

    NAME holds the images and NAME-moments the moments of videos, since FiftyOne separates the two; files in tars are
    left out. The vectors are in the field `embedding`, ready for `fiftyone.brain.compute_similarity`.
    Raises MissingExtraError without FiftyOne, OutputError if a dataset of a name exists (unless `overwrite`).
    """
    try:
        import fiftyone
    except ImportError:
        raise MissingExtraError("fiftyone", "fiftyone") from None
    kinds = {name: "image", f"{name}-moments": "video"}
    by_name = {each: [row for row in index.rows() if row.kind == kind] for each, kind in kinds.items()}
    existing = [each for each, rows in by_name.items() if rows and fiftyone.dataset_exists(each)]
    if existing and not overwrite:
        raise OutputError(f"FiftyOne has a dataset {existing[0]}; choose another --name, or replace it (--overwrite)")
    counts = {}
    for each, rows in by_name.items():
        samples = [_sample(fiftyone, index, row) for row in rows if item_of(index, row).source is not None]
        if samples:
            dataset = fiftyone.Dataset(each, persistent=True, overwrite=overwrite)
            dataset.info = {key: index.settings[key] for key in ("model", "weight_hash", "layer", "pool")}
            for start in range(0, len(samples), _GROUP):
                dataset.add_samples(samples[start : start + _GROUP], progress=False)
            counts[each] = len(samples)
    return counts


def _sample(fiftyone: Any, index: Index, row: IndexRow) -> Any:
    fields = {field: value for field in _FIELDS if (value := getattr(row, field)) is not None}
    path = str(item_of(index, row).source)
    return fiftyone.Sample(filepath=path, pe_id=row.id, embedding=row.vector, **fields)
