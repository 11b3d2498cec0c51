"""The script that draws the picture of a report of `pe layers`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.browsing import CHROMIUM


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: on Debian, apt-get install chromium")
def test_it_ends_below_the_curves(root: Path, tmp_path: Path) -> None:
    report, target = tmp_path / "report.html", tmp_path / "layers.webp"
    style = "margin: 0; background: white"
    figures = "".join(
        f'<figure style="margin: 0; height: 300px; background: {name}"></figure>' for name in ("red", "blue")
    )
    report.write_text(f'<body style="{style}">{figures}<div style="height: 3000px"></div>')
    command = [sys.executable, root / "docs" / "report_picture.py", report, target]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(root)}, check=True, timeout=120)
    with Image.open(target) as drawn:
        assert drawn.size == (1100, 320)
        assert [drawn.getpixel((550, y))[0] > 128 for y in (150, 310)] == [True, False]  # red, then the next figure
