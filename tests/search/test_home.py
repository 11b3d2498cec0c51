"""An index in a directory of its own, and one of a folder around the one that is searched."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from perception_encoder.search.index import FOLDER, Index


@pytest.fixture
def photos(pictures: list[Path]) -> Path:
    """The pictures' folder, some of them in a subfolder with a quote in its name."""
    folder = pictures[0].parent
    below = folder / "2024's" / "may"
    below.mkdir(parents=True)
    for path in pictures[12:]:
        path.rename(below / path.name)
    return folder


def hits(run, *, status: int = 0) -> set[str]:
    assert run.status == status, run.stderr
    return {hit["path"] for hit in json.loads(run.stdout)["queries"][0]["hits"]}


def test_a_subfolder_is_searched_by_the_index_around_it(
    run_pe, photos: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_pe("index", photos, "--model", checkpoint).status == 0
    below = photos / "2024's"
    arguments = ("search", "a cat", "--top", "20", "--json")
    everything = {str(path) for path in photos.rglob("*.jpg")}
    monkeypatch.setattr("perception_encoder.search.asking.encode_media", None)
    assert hits(run_pe(*arguments, photos)) == everything
    inside = {path for path in everything if "2024" in path}
    assert len(inside) == 8 and hits(run_pe(*arguments, below)) == hits(run_pe(*arguments, below / "may")) == inside
    one = hits(run_pe(*arguments, below, "--where", "path LIKE '%/15.jpg' OR path LIKE '00%'"))
    assert one == {str(below / "may" / "15.jpg")}
    monkeypatch.chdir(below)
    assert {Path(path).resolve() for path in hits(run_pe(*arguments))} == {Path(path).resolve() for path in inside}
    groups = json.loads(run_pe("search", "--near-duplicates", below, "--json").stdout)["groups"]
    assert {str(row["path"]) for group in groups for row in group} <= inside


def test_what_an_index_does_not_know_is_encoded(run_pe, photos: Path, checkpoint: Path) -> None:
    assert run_pe("index", photos, "--model", checkpoint).status == 0
    hidden = photos / ".hidden"
    hidden.mkdir()
    (photos / "01.jpg").rename(hidden / "01.jpg")
    run = run_pe("search", "a cat", hidden, "--model", checkpoint, "--json")
    assert hits(run) == {str(hidden / "01.jpg")}


def test_an_index_lies_where_it_is_told_to(run_pe, photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    home = tmp_path / "indexes" / "photos"
    photos.chmod(0o700)
    run = run_pe("index", photos, "--index", home, "--model", checkpoint)
    assert run.status == 0 and "20 added" in run.stdout
    assert not (photos / FOLDER).exists() and Index.exists(home)
    assert home.stat().st_mode & 0o777 == 0o700
    everything = {str(path) for path in photos.rglob("*.jpg")}
    arguments = ("search", "a cat", "--top", "20", "--json")
    for words in ((photos, "--index", home), ("--index", home), (home,)):
        assert hits(run_pe(*arguments, *words)) == everything
    assert len(hits(run_pe(*arguments, photos / "2024's", "--index", home))) == 8
    (photos / "00.jpg").unlink()
    for words in ((photos, "--index", home), (home,)):
        assert "0 added, 0 moved, " in run_pe("index", *words).stdout
    assert hits(run_pe(*arguments, home)) == everything - {str(photos / "00.jpg")}
    assert "19 added" in run_pe("index", home, "--rebuild", "--model", checkpoint).stdout
    assert len(hits(run_pe(*arguments, home))) == 19


def test_an_index_is_of_one_folder(run_pe, photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    other.mkdir()
    assert run_pe("index", photos, "--index", home, "--model", checkpoint).status == 0
    for command in (("index",), ("search", "a cat"), ("serve",)):
        run = run_pe(*command, other, "--index", home)
        assert run.status == 2 and f"the index in {home} is of {photos}, not of {other}" in run.stderr
    run = run_pe("index", photos, other, "--index", home)
    assert run.status == 2 and "--index is for one folder" in run.stderr


def test_a_folder_that_cannot_be_written_is_told_of_the_option(
    run_pe, photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.mkdir

    def mkdir(self: Path, *arguments, **options) -> None:
        if self.is_relative_to(photos):
            raise OSError(errno.EROFS, "Read-only file system")
        plain(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    run = run_pe("index", photos, "--model", checkpoint)
    said = f"{photos / FOLDER} could not be written: Read-only file system; keep the index elsewhere: pe index {photos}"
    assert run.status == 2 and f"{said} --index DIR" in run.stderr
    assert run_pe("index", photos, "--model", checkpoint, "--index", tmp_path / "home").status == 0
