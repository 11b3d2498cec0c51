"""A dataset for each task."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dense_training.datasets import HEADS, write_dataset


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Datasets by task."""
    root = tmp_path_factory.mktemp("dense")
    return {task: write_dataset(task, root / task) for task in HEADS}
