"""Tars as Hugging Face's `datasets` reads them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest


def load_webdataset(directory: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """The JSON of each sample of a directory's tars, in order; the test is skipped without `datasets`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        datasets = pytest.importorskip("datasets")
        files = {"train": str(directory / "*.tar")}
        data = datasets.load_dataset(
            "webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "datasets")
        )
        return list(data.select_columns("json")["json"])
