"""`pe eval attentive`: a probe on a layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output
from perception_encoder.evaluation import tasks
from tests.evaluation.classification.test_attentive_probe import ColourLayers


def test_an_attentive_probe(run_pe, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "load_layers", lambda name, layer, final_norm=False: ColourLayers().at(layer))
    options = ("--split", "val", "--layer", "0", "--epochs", "2")
    run = run_pe("eval", "attentive", "any", "--data", photos, *options)
    assert run.status == output.OK, run.stderr
    assert "attentive probe" in run.stdout and "layer 0" in run.stdout
    run = run_pe("eval", "attentive", "any", "--data", photos, "--split", "val", "--layer", "2")
    assert run.status == output.ERROR and "layer 2 does not exist" in run.stderr
