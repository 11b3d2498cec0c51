"""An update that is stopped, or whose index is removed meanwhile; and who may read an index."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.search.storage.database import DATABASE
from perception_encoder.search.storage.store import STORE, IndexStore
from perception_encoder.search.storage.update import UpdateReport, update_store, writable_store
from perception_encoder.search.storage.writer import IndexWriter

Update = Callable[..., UpdateReport]


@pytest.fixture
def folder(pictures: list[Path]) -> Path:
    return pictures[0].parent


def test_a_stopped_run_is_unfinished_until_the_next(
    update: Update, folder: Path, draw: Callable[[int], Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    update()
    assert not IndexStore.open(folder).unfinished
    draw(70).save(folder / "new.jpg")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for when in ("finish", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(IndexWriter, when, stop)
            with pytest.raises(KeyboardInterrupt):
                update()
        assert IndexStore.open(folder).unfinished and len(IndexStore.open(folder)) in (20, 21)
        draw(71).save(folder / "newer.jpg")
    update()
    assert not IndexStore.open(folder).unfinished and len(IndexStore.open(folder)) == 22


@pytest.mark.parametrize(
    ("what", "when"),
    [
        *(("", "embed_pixels"), ("", "commit"), ("", "unchanged")),
        *(("vectors-1.f32", "commit"), (DATABASE, "unchanged")),
    ],
)
def test_an_index_that_is_removed_meanwhile_is_an_error(
    what: str, when: str, update: Update, folder: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable
) -> None:
    update()
    draw(70).save(folder / "new.jpg")
    if when == "unchanged":
        (folder / "new.jpg").unlink()
    places = {
        "embed_pixels": (Encoder, "embed_pixels"),
        "commit": (IndexWriter, "replace"),
        "unchanged": (IndexWriter, "finish"),
    }
    owner, name = places[when]
    usual = getattr(owner, name)

    def lose(*arguments: object) -> object:
        result = usual(*arguments) if when == "commit" else None
        path = folder / STORE / what
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return result if when == "commit" else usual(*arguments)

    monkeypatch.setattr(owner, name, lose)
    with pytest.raises((OutputError, SearchIndexError)):
        update()
    monkeypatch.undo()
    try:
        update()
    except SearchIndexError:
        update(rebuild=True)
    assert len(IndexStore.open(folder)) == 20 + (when != "unchanged")


def test_a_directory_that_is_renamed_meanwhile_is_named(
    update: Update, folder: Path, draw: Callable[[int], Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    update()
    draw(70).save(folder / "new.jpg")
    embed, renamed = Encoder.embed_pixels, folder.with_name("renamed")

    def rename(*arguments: Any, **options: Any) -> Any:
        folder.rename(renamed)
        return embed(*arguments, **options)

    monkeypatch.setattr(Encoder, "embed_pixels", rename)
    with pytest.raises(OutputError, match=rf"^{folder} was renamed or removed during the update; run .* its new name$"):
        update()
    monkeypatch.undo()
    assert not folder.exists() and len(IndexStore.open(renamed)) == 20
    renamed.rename(folder)
    assert update().added == 1


# ---- who may read it, and where it writes


def modes(place: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in [place, *place.rglob("*")]}


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_an_index_is_as_private_as_its_folder(update: Update, folder: Path) -> None:
    before = os.umask(0o022)
    try:
        folder.chmod(0o755)
        update()
        assert modes(folder / STORE) == {0o055, 0o044}
        folder.chmod(0o700)
        (folder / "03.jpg").unlink()
        update()
        assert modes(folder / STORE) == {0}
        folder.chmod(0o750)
        update(rebuild=True)
        assert modes(folder / STORE) <= {0, 0o050, 0o040}
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_an_index_elsewhere_is_as_private_as_the_images(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    home, before = tmp_path / "home", os.umask(0o022)
    try:
        home.mkdir(mode=0o755)
        for mode, seen in ((0o755, {0o055, 0o044}), (0o700, {0})):
            folder.chmod(mode)
            with writable_store(folder, ModelSpec(checkpoint), directory=home) as (index, own):
                update_store(index, own)  # the second time, no file has changed
            assert modes(home / STORE) == seen
        with writable_store(folder, ModelSpec(checkpoint), rebuild=True, directory=home) as (index, own):
            update_store(index, own)
        assert modes(home / STORE) == {0}
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name == "nt", reason="POSIX links")
def test_an_index_that_is_a_link_is_refused(update: Update, folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "diary.txt").touch()
    (victim / "diary.txt").chmod(0o644)
    folder.chmod(0o700)
    (folder / STORE).symlink_to(victim)
    with pytest.raises(OutputError, match=rf"{STORE} is a link; remove it, an index must be a directory$"):
        update()
    assert modes(victim / "diary.txt") == {0o044} and os.listdir(victim) == ["diary.txt"]
