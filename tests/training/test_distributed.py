"""Several processes and any micro-batch give the loss and the gradients of one process with the whole batch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from perception_encoder.training.checkpoint import find_checkpoints
from tests import processes
from tests.training.ranks import loss_and_gradients, train_by_own_clocks, train_on_a_full_disk, write

CHUNKS = (None, 1, 3, 5, 100)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """The loss, and the gradient as one vector, to a relative error."""
    assert actual.keys() == expected.keys()
    parts = ({"loss"}, actual.keys() - {"loss"})
    for names in parts:
        ours, theirs = (torch.cat([item[name].flatten() for name in sorted(names)]) for item in (actual, expected))
        assert (ours - theirs).norm() / theirs.norm() < tolerance, names


@cache
def of_one_process(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return loss_and_gradients(dtype, None)


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_and_micro_batches_change_nothing(ranks: int, tmp_path: Path) -> None:
    out = tmp_path / "found.pt"
    processes.run(write, out, CHUNKS, ranks=ranks, log=tmp_path / "log")
    actual = torch.load(out, weights_only=True)
    for dtype, tolerance in TOLERANCE.items():
        expected = of_one_process(dtype)
        assert expected["loss"] > 1 and actual[str(dtype)].keys() == set(CHUNKS)
        for item in actual[str(dtype)].values():
            assert_same(item, expected, tolerance)


def test_ranks_save_when_the_first_one_s_clock_says(tmp_path: Path) -> None:
    """By its own clock the other rank would never save, and the first would wait for it for ever."""
    processes.run(train_by_own_clocks, tmp_path / "run", ranks=2, log=tmp_path / "log")
    assert [state.step for _, state in find_checkpoints(tmp_path / "run")] == [9, 8, 6, 4, 2]


def test_a_checkpoint_that_the_first_rank_cannot_write_is_left_out_by_all(tmp_path: Path) -> None:
    """The first rank went on without it, and the others waited for it for ever."""
    processes.run(train_on_a_full_disk, tmp_path / "run", ranks=2, log=tmp_path / "log")
    assert [state.step for _, state in find_checkpoints(tmp_path / "run")] == [4]
