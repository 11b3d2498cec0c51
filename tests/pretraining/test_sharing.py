"""FSDP2 on two processes: blocks are whole only while they compute, however unlike the ranks' numbers of rows are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.pretraining.sharing import CASES, LR, losses_and_gradients


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """What two processes found."""
    out = tmp_path_factory.mktemp("sharing") / "found.pt"
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(
        [*command, "-m", "tests.pretraining.sharing", str(out)],
        capture_output=True,
        text=True,
        cwd=root,
        env=environment,
        timeout=200,
    )
    assert done.returncode == 0 and "UserWarning" not in done.stderr, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_ranks_with_unlike_numbers_of_rows_find_what_one_process_finds(
    case: str, shared: dict[str, dict[str, torch.Tensor]]
) -> None:
    expected = losses_and_gradients(*CASES[case])
    assert shared[case].keys() == expected.keys()
    assert expected["contrastive"] > 0.5 and expected["mask"] > 0.05
    assert expected["gradient mask_token"].abs().max() > 0
    if case == "bfloat16":
        ours, theirs = (torch.cat([item[name].flatten() for name in expected]) for item in (shared[case], expected))
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
        return
    for name, value in expected.items():
        near = 2e-6 if name.startswith(("contrastive", "mask", "gradient")) and name != "mask_token" else 3 * LR
        torch.testing.assert_close(shared[case][name], value, rtol=1e-4, atol=near, msg=name)
