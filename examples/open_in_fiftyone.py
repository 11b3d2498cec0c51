"""Open an index in FiftyOne: its images in one dataset, the moments of its videos in another, with their vectors.

pip install fiftyone
python examples/open_in_fiftyone.py photos
fiftyone app launch photos
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import fiftyone
import numpy as np
import pyarrow.parquet as pq

import perception_encoder as pe

FIELDS = ("start", "end", "times")


def main() -> None:
    """Create the datasets NAME and NAME-moments; `fiftyone.brain.compute_similarity` can use the field `embedding`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path, help="a directory with an index")
    parser.add_argument("--name", help="by default the directory's")
    parser.add_argument("--overwrite", action="store_true", help="replace the datasets if they exist")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        vectors = Path(temporary, "vectors.parquet")
        pe.open_index(arguments.directory).export_vectors(vectors)
        rows = [row for row in pq.read_table(vectors).to_pylist() if Path(row["path"]).is_file()]  # none in tars
    name = arguments.name or arguments.directory.resolve().name
    for dataset, moments in ((name, False), (f"{name}-moments", True)):
        found = [row for row in rows if (row["start"] is not None) == moments]
        if found:
            target = fiftyone.Dataset(dataset, persistent=True, overwrite=arguments.overwrite)
            for row in found:
                fields = {field: row[field] for field in FIELDS if row[field] is not None}
                vector = np.array(row["vector"], np.float32)
                target.add_sample(fiftyone.Sample(filepath=row["path"], embedding=vector, **fields))
            print(f"{dataset}: {len(target)} samples")


if __name__ == "__main__":
    main()
