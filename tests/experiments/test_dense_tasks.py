"""Tasks of dense prediction under a page's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.dense_tasks import read_dense_tasks
from perception_encoder.errors import DataError
from tests.evaluation.layers import discs, write_video


def test_tasks_have_the_pages_names(tmp_path: Path) -> None:
    write_video(tmp_path / "clips" / "one.tar", *discs())
    tasks: dict[str, tuple[str, Path | None]] = {
        "of clips": ("tracking", tmp_path / "clips"),
        "of a room": ("depth", None),
    }
    assert list(read_dense_tasks(tasks, 10, 64, 96)) == ["of clips"]
    with pytest.raises(DataError, match=r"of a room: .*none does not exist"):
        read_dense_tasks({**tasks, "of a room": ("depth", tmp_path / "none")}, 10, 64, 96)
