"""An indexed folder for the tests of the page: twelve pictures of known dates and a clip of two scenes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.index.index import Index
from perception_encoder.search.index.indexing import update_index, writable_index
from perception_encoder.search.web.library import Library
from tests.clips import clip


def make_library(
    folder: Path,
    checkpoint: Path,
    encoder: Encoder,
    draw: Callable[[int], Image.Image],
    home: Path | None = None,
) -> Library:
    """Pictures of the first of each month of 2023; the clip is of 2024. `home`: a directory for the index."""
    for number in range(12):
        path = folder / ("sub" if number % 2 else "") / f"{number:02d}'s <b>.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(number).save(path, quality=90)
        taken = datetime(2023, number + 1, 1, 12).timestamp()
        os.utime(path, (taken, taken))
    (folder / "clip.mp4").write_bytes(clip(200, rate=10))
    os.utime(folder / "clip.mp4", (datetime(2024, 2, 3).timestamp(),) * 2)
    with writable_index(folder, str(checkpoint), every=0.5, home=home) as (index, own):
        update_index(index, own)
    return Library(Index.open(home or folder), encoder)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Fail unless a condition is fulfilled within a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
