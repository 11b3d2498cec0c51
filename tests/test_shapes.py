"""The shapes in type hints are true: the golden tests run once more with every hint checked by jaxtyping."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGES = ",".join(f"perception_encoder.{package}" for package in ("losses", "models"))


def test_shape_hints_hold(root: Path) -> None:
    hook = f"--jaxtyping-packages={PACKAGES},beartype.beartype"
    tests = ["tests/losses", "tests/models/test_layers.py", "tests/models/test_golden.py"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        hook,
        *tests,
        "-k",
        "not (B16 or S16 or L14 or G14 or another_grid or memory)",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_wrong_shape_would_be_seen() -> None:
    code = f"""
import torch
from jaxtyping import TypeCheckError, install_import_hook
with install_import_hook({PACKAGES.split(",")!r}, "beartype.beartype"):
    from perception_encoder.losses.pretraining import contrastive_loss
try:
    contrastive_loss(torch.ones(2, 3), torch.ones(2, 4), torch.tensor(1.0), torch.eye(2) > 0, torch.eye(2) > 0)
except TypeCheckError:
    print("seen")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout == "seen\n", done.stderr
