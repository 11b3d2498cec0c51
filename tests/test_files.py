"""Files are written whole or not at all, and what goes wrong is one line."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from perception_encoder.errors import OutputError
from perception_encoder.files import (
    holding,
    is_held,
    read_regular,
    refuse_database_links,
    replacing,
    restrict,
    write_json,
    write_text,
    writing,
)
from tests import processes
from tests.damage import at_most, plant_pipe

pytestmark = pytest.mark.security


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk is full."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)


def test_replacing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    with replacing(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    fill_disk(monkeypatch)
    with (
        pytest.raises(OutputError, match="html could not be written: No space"),
        writing(target),
        replacing(target) as temporary,
    ):
        temporary.write_text("new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_leftovers_of_killed_writers_are_removed_by_the_next_one(tmp_path: Path) -> None:
    """Of files and directories; the ones of running processes and, for a day, of other machines stay."""
    killed = processes.start(die_while_writing, tmp_path, log=tmp_path / "log")
    assert killed.statuses() == [-signal.SIGKILL]
    leftovers = {path for path in tmp_path.iterdir() if path.suffix == ".tmp"}
    assert len(leftovers) == 2
    elsewhere, old = (tmp_path / f".{name}.00000000-1-1.tmp" for name in ("x", "y"))
    elsewhere.touch()
    old.touch()
    os.utime(old, (0, 0))
    with replacing(tmp_path / "running") as running:
        running.touch()
        processes.run(write_text, tmp_path / "page.html", "new", log=tmp_path / "log")
        assert {path for path in tmp_path.iterdir() if path.suffix == ".tmp"} == {elsewhere, running}


def die_while_writing(directory: Path) -> None:
    with replacing(directory / "file") as file, replacing(directory / "directory") as made:
        file.write_text("half")
        made.mkdir()
        (made / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_text_and_json_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "new" / "a.json", tmp_path / "link.json"
    write_json(path, {"name": "Größe"})
    assert json.loads(path.read_text()) == {"name": "Größe"} and os.listdir(path.parent) == ["a.json"]
    with pytest.raises(TypeError):
        write_json(path, {"name": object()})
    assert json.loads(path.read_text()) == {"name": "Größe"}
    with pytest.raises(OutputError, match=r"b\.json could not be written"):
        write_text(path / "b.json", "{}")
    link.symlink_to(path)
    write_json(link, 1, indent=None)
    assert (json.loads(path.read_text()), link.read_text(), link.is_symlink()) == ({"name": "Größe"}, "1\n", False)
    fill_disk(monkeypatch)
    with pytest.raises(OutputError, match=r"a\.json could not be written: No space"):
        write_text(path, "half")
    assert json.loads(path.read_text()) == {"name": "Größe"}


def test_a_file_replaces_no_directory_and_no_device(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mug.jpg").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("photos", "is a directory"), ("pipe", "is not a regular file")):
        with pytest.raises(OutputError, match=message), replacing(tmp_path / name) as temporary:
            temporary.write_text("page")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"), replacing(tmp_path / "file") as temporary:
        temporary.mkdir()
    assert (tmp_path / "photos" / "mug.jpg").exists() and (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["file", "photos", "pipe"]


@pytest.mark.parametrize("target", ["diary.txt", "letters", "nothing"])
@pytest.mark.parametrize("directory", [False, True])
def test_a_link_is_replaced_and_not_what_it_leads_to(target: str, directory: bool, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "first.txt").touch()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / target)
    with replacing(link) as temporary:
        temporary.mkdir() if directory else temporary.write_text("new")
    assert not link.is_symlink() and link.is_dir() == directory
    assert (tmp_path / "diary.txt").read_text() == "dear diary" and os.listdir(tmp_path / "letters") == ["first.txt"]
    assert not (tmp_path / "nothing").exists()


def test_a_lock_is_held_by_one_seen_and_freed(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    lock = tmp_path / "lock"
    assert not is_held(lock)
    with holding(lock, "taken"):
        assert is_held(lock)
        with pytest.raises(OutputError, match="taken"), holding(lock, "taken"):
            pass
    assert not is_held(lock)
    with holding(lock, "taken"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_not_a_lock_that_somebody_holds(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    reason = rf"lock cannot be locked \({os.strerror(number)}\): its file system lacks flock; choose a directory"
    with pytest.raises(OutputError, match=reason), holding(tmp_path / "lock", "taken"):
        pass
    assert not is_held(tmp_path / "lock")


def test_a_lock_leaves_what_is_there_alone(tmp_path: Path) -> None:
    victim, lock = tmp_path / "diary.txt", tmp_path / "lock"
    victim.write_text("dear diary")
    lock.symlink_to(victim)
    with pytest.raises(OutputError, match="lock is a link, which is not followed"), holding(lock, "taken"):
        pass
    lock.unlink()
    os.link(victim, lock)
    with holding(lock, "taken"):
        pass
    assert victim.read_text() == "dear diary"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(OutputError, match="is not a regular file"), holding(lock, "taken"):
        pass


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_database_s_pipe_is_refused(kind: str, tmp_path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        plant_pipe(path := tmp_path / f"a.sqlite{suffix}", kind)
        with at_most(20, path), pytest.raises(OutputError, match=f"a.sqlite{suffix} is not a regular file; remove it"):
            refuse_database_links(tmp_path / "a.sqlite")
        path.unlink()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_only_a_regular_file_is_read_or_a_link_to_one_if_that_is_followed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    plant_pipe(tmp_path / "pipe", kind)
    for name in ("file", "pipe"):
        (tmp_path / f"link to {name}").symlink_to(tmp_path / name)
    assert read_regular(tmp_path / "file") == read_regular(tmp_path / "link to file", follow=True) == b"content"
    with pytest.raises(OutputError, match="is a link, which is not followed; remove it"):
        read_regular(tmp_path / "link to file")
    for name in ("pipe", "link to pipe"):
        with at_most(20, tmp_path / "pipe"), pytest.raises(OutputError, match="pipe is not a regular file; remove it"):
            read_regular(tmp_path / name, follow=True)


def test_permissions_are_taken_and_never_given(tmp_path: Path) -> None:
    like, directory = tmp_path / "like", tmp_path / "folder"
    for path in (like, directory, directory / "deep"):
        path.mkdir()
    (directory / "deep" / "a").touch()
    (directory / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").touch(mode=0o644)
    for path, mode in ((directory, 0o755), (directory / "deep", 0o700), (directory / "deep" / "a", 0o666)):
        path.chmod(mode)
    for given, modes in ((0o750, [0o750, 0o700, 0o640]), (0o100, [0o700, 0o700, 0o600])):
        like.chmod(given)
        restrict(directory, like)
        found = (directory, directory / "deep", directory / "deep" / "a")
        assert [path.stat().st_mode & 0o777 for path in found] == modes
    assert (tmp_path / "outside").stat().st_mode & 0o777 == 0o644


def test_permissions_are_those_that_all_give(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("folder", "first", "second")]
    for path, mode in zip(paths, (0o777, 0o750, 0o705), strict=True):
        path.mkdir()
        path.chmod(mode)
    restrict(paths[0], paths[1], tmp_path / "missing")
    assert paths[0].stat().st_mode & 0o777 == 0o750
    restrict(*paths)
    assert paths[0].stat().st_mode & 0o777 == 0o700
