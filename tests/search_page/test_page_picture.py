"""The script that draws the pictures of the page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.browsing import CHROMIUM

pytestmark = pytest.mark.browser


def draw(root: Path, target: Path, path: str) -> str:
    command = [sys.executable, root / "docs" / "page_picture.py", target]
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(root)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120).stdout


def test_it_shows_the_page_with_hits_that_are_right(root: Path, tmp_path: Path) -> None:
    """The script itself fails if other hits are in the picture than the photograph and its moment of the video."""
    pytest.importorskip("skimage")
    pytest.importorskip("rapidocr")
    if CHROMIUM is None:
        pytest.skip("no chromium: on Debian, apt-get install chromium")
    assert draw(root, tmp_path / "page.webp", os.environ["PATH"]) == ""
    for name, width in (("page.webp", 1400), ("words.webp", 1328)):
        with Image.open(tmp_path / name) as drawn, Image.open(root / "docs" / "images" / name) as stored:
            assert drawn.size == stored.size and drawn.width == width
        assert 40_000 < (tmp_path / name).stat().st_size < 120_000


def test_without_chromium_the_picture_stays_as_it_is(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.webp"
    assert "no chromium" in draw(root, target, str(tmp_path)) and not target.exists()
