"""`pe features`: a drawing of features, and one-line errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Run

pytest.importorskip("matplotlib")


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_features_of_an_image(
    run_pe: Callable[..., Run], checkpoint: Path, image_files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.png"
    arguments = ("features", image_files[0], "--model", checkpoint, "--out", out, "--patches", "6")
    done = run_pe(*arguments, "--layer", "0,-1")
    assert done.status == 0 and "nano: " in done.stdout and size(out)[0] > 300
    assert run_pe(*arguments, "--layer", "3", "--bare").status == 0 and size(out) == (96, 64)
    for options, message in (
        (["--bare"], "draws one layer"),
        (["--at", "middle"], "it must be two numbers separated by a comma"),
        (["--layer", "12"], "layer 12 does not exist"),
    ):
        wrong = run_pe(*arguments, *options)
        assert wrong.status == 2 and message in wrong.stderr


def test_models_side_by_side(
    run_pe: Callable[..., Run], checkpoint: Path, image_files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.png"
    arguments = ("features", image_files[0], "--model", checkpoint, "--baseline", "builtin", "--patches", "6")
    done = run_pe(*arguments, "--out", out)
    assert done.status == 0 and size(out)[0] == 3 * 256 + 2 * 6
    assert done.stdout.startswith("from left to right: the image, nano layer ")
    for options, message in (
        (["--layer", "0,1", "--out", out], "--baseline draws one layer of each model"),
        (["--out", tmp_path / "x.gif"], "its name must end in .png"),
    ):
        wrong = run_pe(*arguments, *options)
        assert wrong.status == 2 and message in wrong.stderr
