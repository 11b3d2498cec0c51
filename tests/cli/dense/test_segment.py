"""`pe segment`: regions that resemble a point, drawn and as a mask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Run


@pytest.fixture
def square(tmp_path: Path) -> Path:
    """A red square, a fifth of the image, before green."""
    pixels = np.full((120, 120, 3), (20, 120, 30), np.uint8)
    pixels[30:84, 30:84] = (220, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    return tmp_path / "square.png"


def test_regions_by_points(run_pe: Callable[..., Run], square: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    run = run_pe("segment", square, "--point", "0.5,0.5", "-o", out, "--short-side", 128, "--json")
    assert run.status == 0
    (region,) = json.loads(run.stdout)["regions"]
    assert region["id"] == 1 and region["bbox"] == pytest.approx([30, 30, 54, 54], abs=16)
    mask = np.asarray(Image.open(tmp_path / "out.mask.png"))
    assert (mask > 0).sum() == region["area"] and mask[57, 57] == 1 and mask[5, 5] == 0
    with Image.open(out) as drawn:
        assert drawn.size == (120, 120)
    run = run_pe("segment", square, "--point", "60,60", "--point", "5,5", "-o", out, "--short-side", 128)
    assert run.status == 0 and [line.split("\t")[0] for line in run.stdout.splitlines()[:2]] == ["1", "2"]


def test_classes_by_a_head(run_pe: Callable[..., Run], square: Path, segmenter: Path, tmp_path: Path) -> None:
    run = run_pe("segment", square, "--head", segmenter, "-o", tmp_path / "out.png", "--json")
    assert run.status == 0
    regions = json.loads(run.stdout)["regions"]
    assert {region["name"] for region in regions} <= {"chair", "lamp"} and sum(
        region["area"] for region in regions
    ) <= 120**2


def test_a_head_of_another_encoder(run_pe: Callable[..., Run], square: Path, segmenter: Path, tmp_path: Path) -> None:
    run = run_pe("segment", square, "--head", segmenter, "-m", "random:builtin", "-o", tmp_path / "out.png")
    assert run.status == 2 and "belongs to PE-Core-N16-128, layer 11, with weights" in run.stderr


def test_clear_errors(run_pe: Callable[..., Run], square: Path, tmp_path: Path) -> None:
    run = run_pe("segment", square, "--point", "130,5", "-o", tmp_path / "out.png")
    assert run.status == 2 and "the position 130,5 is not inside the image of 120x120 pixels" in run.stderr
    run = run_pe("segment", square, "-o", tmp_path / "out.png")
    assert run.status == 2 and "choose what to segment: points, or a head" in run.stderr
    run = run_pe("segment", square, "--point", "here", "-o", tmp_path / "out.png")
    assert run.status == 2 and "the position is 'here'; it must be X,Y, in pixels or from 0 to 1" in run.stderr
    run = run_pe("segment", square, "--point", "0.5,0.5", "--layer", 99, "-o", tmp_path / "out.png")
    assert run.status == 2 and "layer 99" in run.stderr
