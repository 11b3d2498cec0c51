"""The page's index follows the files: it is updated if they change, and not otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.update import update_store
from perception_encoder.search.web.library import MediaLibrary
from tests.search.indexes import make_library, wait_for

Draw = Callable[[int], Image.Image]


@pytest.mark.parametrize("directory", ["photos", "index"])
def test_files_are_looked_for_every_so_often(
    directory: str, tmp_path: Path, checkpoint: Path, encoder: Encoder, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    library = make_library(folder, checkpoint, encoder, draw, tmp_path / directory)
    updates: list[int] = []
    update = MediaLibrary.update
    monkeypatch.setattr(MediaLibrary, "update", lambda self: (update(self), updates.append(1)))
    (folder / "bad.jpg").write_bytes(b"x")
    library.watch(seconds=0.1)
    wait_for(lambda: len(updates) == 1, "the first update")
    draw(50).save(folder / "new.jpg")
    wait_for(lambda: "new.jpg" in library.index.files(), "a new file")
    wait_for(lambda: len(updates) == 2, "its update")
    (folder / "new.jpg").unlink()
    wait_for(lambda: "new.jpg" not in library.index.files(), "a file that is gone")
    wait_for(lambda: len(updates) == 3, "its update")
    time.sleep(1)
    assert len(updates) == 3  # nothing has changed, and the bad file is not read again and again
    draw(51).save(folder / "bad.jpg")
    wait_for(lambda: "bad.jpg" in library.index.files(), "a file that is good now")


def test_a_failed_update_is_tried_again(
    tmp_path: Path, checkpoint: Path, encoder: Encoder, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tries = tmp_path / "photos", list[int]()
    library = make_library(folder, checkpoint, encoder, draw)

    def fail_twice(*arguments: object) -> object:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("No space left on device")
        return update_store(*arguments)

    monkeypatch.setattr("perception_encoder.search.web.library.update_store", fail_twice)
    draw(50).save(folder / "new.jpg")
    library.watch(seconds=0.1)
    wait_for(lambda: "new.jpg" in library.index.files(), "the third try")
    wait_for(lambda: not library.progress.running, "its end")
    time.sleep(1)
    assert len(tries) == 3 and not library.progress.error
