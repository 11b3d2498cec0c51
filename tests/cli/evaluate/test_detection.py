"""`pe eval detection`: boxes and masks, with classes and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output
from tests.datasets.drawn import write_instances

pytestmark = pytest.mark.usefixtures("colour_layers")


def test_detection(run_pe, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")

    data = write_instances(tmp_path, {"train": 2, "test": 1})
    arguments = ("eval", "detection", "any", "--data", data, "--layer", "0", "--channels", "8", "--epochs", "1")
    run = run_pe(*arguments)
    assert run.status == output.OK and "mask AP50" in run.stdout
    run = run_pe(*arguments, "--class-agnostic")
    assert run.status == output.OK and "box AP50" in run.stdout and "mask AP50" not in run.stdout
