"""`pe eval retrieval`: both directions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.cli import output
from tests.cli.evaluate.conftest import COLOURS, read_json
from tests.evaluation.colours import image_bytes

pytestmark = pytest.mark.usefixtures("colour_models")


def test_retrieval_of_captions(run_pe, tmp_path: Path) -> None:
    for colour in COLOURS:
        (tmp_path / f"{colour}.png").write_bytes(image_bytes(colour))
    captions = {f"{colour}.png": [f"a {colour} cup", colour] for colour in COLOURS}
    (tmp_path / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    run = run_pe("eval", "retrieval", "any", "--data", tmp_path / "captions.json", "-o", tmp_path / "r.json")
    assert run.status == output.OK, run.stderr
    assert "text to item R@1" in run.stdout and "item to text, dual softmax R@10" in run.stdout
    assert len(read_json(tmp_path / "r.json")["measurements"][0]["scores"]) == 12
