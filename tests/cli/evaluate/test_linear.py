"""`pe eval linear`: a part of the training split is held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output

pytestmark = pytest.mark.usefixtures("colour_models")


def test_a_linear_probe(run_pe, photos: Path) -> None:
    run = run_pe("eval", "linear", "any", "--data", photos, "--split", "val")
    assert run.status == output.OK, run.stderr
    assert "linear probe" in run.stdout and "train 27" in run.stdout  # three are held out
