"""Run the program that a directory's README.md shows, as a reader would: inside the directory."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def run_card(directory: Path) -> dict[str, Any]:
    """Check the card and SHA256SUMS, execute the program beside an image.jpg, and return its variables."""
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert re.match(r"---\nlicense: (apache-2\.0|other)\nlibrary_name: [\w-]+\n", card)
    assert "Licence of the weights: " in card
    sums = dict(reversed(line.split()) for line in (directory / "SHA256SUMS").read_text().splitlines())
    files = {str(path.relative_to(directory)): path for path in directory.rglob("*") if path.is_file()}
    assert sums.keys() == files.keys() - {"SHA256SUMS"}
    assert all(hashlib.sha256(files[name].read_bytes()).hexdigest() == value for name, value in sums.items())
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((320, 180)).save(directory / "image.jpg", quality=95)
    (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    variables: dict[str, Any] = {"__name__": "program"}
    before = Path.cwd()
    os.chdir(directory)
    try:
        exec(compile(program, str(directory / "README.md"), "exec"), variables)
    finally:
        os.chdir(before)
    return variables
