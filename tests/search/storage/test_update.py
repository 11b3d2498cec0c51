"""A folder's index follows the folder: what is new, changed, moved, copied or gone, and what goes wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.store import Store
from perception_encoder.search.storage.update import update_store, writable_store
from tests.search.indexes import counts, rows_by_path

Draw = Callable[[int], Image.Image]


def test_an_unchanged_folder_is_not_read_again(update, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update()
    before = rows_by_path(folder)
    (folder / "bad.jpg").unlink()
    monkeypatch.setattr(Encoder, "embed_pixels", None)
    assert counts(update()) == (0, 0, 0, 21)
    assert rows_by_path(folder).keys() == before.keys()


def test_changes_of_every_kind(update, folder: Path, draw: Draw) -> None:
    update()
    before = rows_by_path(folder)
    draw(99).save(folder / "new.jpg")
    draw(98).save(folder / "03.jpg")  # other content
    os.utime(folder / "04.jpg", (1, 1))  # touched
    (folder / "sub").mkdir()
    (folder / "05.jpg").rename(folder / "sub" / "moved.jpg")
    shutil.copy(folder / "06.jpg", folder / "copy.jpg")
    (folder / "07.jpg").unlink()
    (folder / "clip.mp4").rename(folder / "sub" / "clip.mp4")
    report = update()
    assert counts(report) == (2, 4, 3, 16)
    after = rows_by_path(folder)
    assert set(after) == set(before) - {"05.jpg", "07.jpg", "clip.mp4"} | {
        *("new.jpg", "sub/moved.jpg", "copy.jpg", "sub/clip.mp4")
    }
    assert not np.allclose(after["03.jpg"][0].vector, before["03.jpg"][0].vector, atol=1e-3)
    for new, old in (("sub/moved.jpg", "05.jpg"), ("copy.jpg", "06.jpg"), ("04.jpg", "04.jpg")):
        np.testing.assert_array_equal(after[new][0].vector, before[old][0].vector)
        assert after[new][0].thumbnail == before[old][0].thumbnail != b""
    assert len(after["sub/clip.mp4"]) == len(before["clip.mp4"])
    assert {len(rows) for path, rows in after.items() if not path.endswith(".mp4")} == {1}
    assert counts(update()) == (0, 0, 0, 22)


def test_files_that_change_places_are_lost_in_no_commit(
    update, folder: Path, encoder: Encoder, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    update()
    monkeypatch.setattr("perception_encoder.search.storage.update._COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(Encoder, "batch_size", 1)
    order = [*pictures[1:], pictures[0]]
    for number, path in enumerate(pictures):
        path.rename(folder / f"{number}.moving")
    for number, path in enumerate(order):
        (folder / f"{number}.moving").rename(path)
        os.utime(path, (number, number))
    report = update()
    assert report.added + report.moved == 20 and report.deleted == 0
    rows = rows_by_path(folder)
    assert {path: len(rows[path.name]) for path in pictures} == dict.fromkeys(pictures, 1)
    vectors = np.stack([rows[path.name][0].vector for path in pictures])
    np.testing.assert_allclose(vectors, encoder.encode_images(pictures), atol=2e-2)
    assert counts(update()) == (0, 0, 0, 21)


def test_a_file_that_is_no_image_any_more_is_forgotten(update, folder: Path) -> None:
    update()
    (folder / "08.jpg").write_bytes(b"no picture any more")
    assert counts(update()) == (0, 0, 0, 20)
    assert "08.jpg" not in rows_by_path(folder)


def test_a_full_disk_doubles_nothing(update, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception_encoder.search.storage.update._COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(Encoder, "batch_size", 5)
    commit, commits = Store.replace, []

    def fills_up(self: Store, *arguments: object) -> None:
        commit(self, *arguments)
        commits.append(arguments)
        if len(commits) == 2:
            raise OutputError("No space left on device")

    monkeypatch.setattr(Store, "replace", fills_up)
    with pytest.raises(OutputError):
        update()
    assert {len(rows) for path, rows in rows_by_path(folder).items() if path != "clip.mp4"} == {1}
    update()
    assert {len(rows) for path, rows in rows_by_path(folder).items() if path != "clip.mp4"} == {1}
    assert len(rows_by_path(folder)) == 21


def test_a_folder_whose_name_looks_like_an_address(checkpoint: Path, tmp_path: Path, draw: Draw, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("trip:2019", "memory:x", "~x"):
        (tmp_path / name).mkdir()
        draw(1).save(tmp_path / name / "a.jpg")
        with writable_store(Path(name), str(checkpoint)) as (index, encoder):
            assert update_store(index, encoder).rows == 1
        assert len(Store.open(Path(name))) == 1


def test_another_model_or_rate_is_refused_until_rebuilt(folder: Path, checkpoint: Path, update) -> None:
    update()
    with (
        pytest.raises(SearchIndexError, match=r"weight_hash .*pe index --rebuild"),
        writable_store(folder, "builtin"),
    ):
        pass
    with pytest.raises(SearchIndexError, match=r"a frame every 1 s, not 0\.5.*--rebuild --every 0\.5"):
        update(every=0.5)
    assert counts(update(every=0.5, rebuild=True)) == (21, 0, 0, 0)
    assert counts(update()) == (0, 0, 0, 21)
