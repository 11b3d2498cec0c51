"""Embed a dataset once, and use the embeddings from numpy.

    python examples/embed_a_dataset.py photos/ photos.parquet

Unreadable files are skipped and listed, and a stopped run resumes when it is started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import perception_encoder as pe


def main() -> None:
    """Write one Parquet row for each file, read them back, and print the two most similar files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", help="directory, glob, table with a column of paths, or WebDataset tar")
    parser.add_argument("out", type=Path, help="the Parquet file to write")
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()

    report = pe.embed(arguments.dataset, arguments.out, model=arguments.model)
    for error in report.skipped:
        print(error)

    table = pq.read_table(arguments.out)
    paths = table["path"].to_pylist()
    embeddings = np.stack(table["vector"].to_numpy())  # (n, D), unit length
    print(f"{len(paths)} files, embeddings of shape {embeddings.shape}")

    similarity = embeddings @ embeddings.T  # (n, n)
    np.fill_diagonal(similarity, -1)
    first, second = np.unravel_index(similarity.argmax(), similarity.shape)
    print(f"most similar: {paths[first]} and {paths[second]}, {similarity.max():.3f}")


if __name__ == "__main__":
    main()
