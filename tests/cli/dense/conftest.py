"""Heads that were trained for four steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.dense_training.run import train_dense
from tests.dense_training.datasets import small_config, write_dataset


def train(task: str, directory: Path) -> Path:
    config = small_config(task, "validation=null")
    return train_dense(config, [write_dataset(task, directory / "data")], directory / "run")


@pytest.fixture(scope="session")
def depth_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("depth", tmp_path_factory.mktemp("depth"))


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("segmenter", tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train("detector", tmp_path_factory.mktemp("detector"))
