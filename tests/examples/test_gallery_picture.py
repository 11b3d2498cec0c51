"""The script that draws the README's gallery."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.slow
def test_it_draws_the_picture_of_the_readme(root: Path, tmp_path: Path) -> None:
    """The script itself fails if a query has another best hit than the photograph that it shows."""
    for module in ("matplotlib", "rapidocr", "skimage", "sklearn"):
        pytest.importorskip(module)
    target = tmp_path / "gallery.webp"
    command = [sys.executable, root / "docs" / "gallery_picture.py", target]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, check=True, timeout=120)
    with Image.open(target) as drawn, Image.open(root / "docs" / "images" / "gallery.webp") as stored:
        assert drawn.size == stored.size
        pair = [image.convert("L").resize((32, 12)).tobytes() for image in (drawn, stored)]
    assert max(abs(ours - theirs) for ours, theirs in zip(*pair, strict=True)) < 24  # of 255; CPUs round differently
