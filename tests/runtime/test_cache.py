"""The cache of converted towers: what is damaged, foreign or half written is never used; its size is bounded."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perception_encoder.errors import OutputError
from perception_encoder.runtime import cache
from perception_encoder.runtime.cache import CHECKED, ENTRY, MODEL, SINGLE, WEIGHTS, CachedTower, Key
from perception_encoder.runtime.runtime import ModelInfo
from tests.models.small import CORE, TEXT, WITHOUT_ROPE


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    yield cache.root()
    for path in (tmp_path, *tmp_path.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)


def key(name: str = "a", **changes: Any) -> Key:
    fields = {"model": name, "weights": f"hash of {name}", "config": CORE, "tower": "image", "precision": "float32"}
    return Key(**{**fields, **changes})


def write(content: bytes = b"weights") -> Callable[[Path], dict[str, Any]]:
    def fill(directory: Path) -> dict[str, Any]:
        (directory / MODEL).write_bytes(b"<net/>")
        (directory / WEIGHTS).write_bytes(content)
        (directory / "example.npz").write_bytes(b"example")
        return {"difference": 0.0}

    return fill


def add(name: str = "a", content: bytes = b"weights") -> CachedTower:
    return cache.store(key(name), write(content))


def test_an_entry_is_found_until_something_that_it_depends_on_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.find(key()) is None
    entry = add()
    found = cache.find(key())
    assert found is not None and found.path == entry.path and found.path.read_bytes() == b"<net/>"
    assert found.values["difference"] == 0.0 and found.precision == "float32"
    others = [{"weights": "x"}, {"tower": "text"}, {"precision": "int8"}, {"layer": 3}, {"config": WITHOUT_ROPE}]
    assert all(cache.find(key(**change)) is None for change in others)
    assert cache.find(key(model="another name of the same weights")) is not None
    for name, changed in (("cpu_flags", lambda: "another CPU"), ("__version__", "another version of this package")):
        with monkeypatch.context() as patch:
            patch.setattr(cache, name, changed)
            assert cache.find(key()) is None
            assert cache.entries()[0].to_dict()["usable"] is False
    assert cache.find(key()) is not None


def test_what_is_known_of_a_model_belongs_to_its_file_and_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    info = ModelInfo(name="a", weights="0123", vision=CORE, text=TEXT, logit_scale=9.5)
    cache.store_info("file", info)
    assert cache.find_info("file", "0123") == info
    assert cache.find_info("another file", "0123") is cache.find_info("file", "4567") is None
    monkeypatch.setattr(cache, "__version__", "another version of this package")
    assert cache.find_info("file", "0123") is None


def change_bytes(directory: Path) -> None:
    """As a faulty disk or program: same size, same times."""
    state = (directory / WEIGHTS).stat()
    (directory / WEIGHTS).write_bytes(b"wEights")
    os.utime(directory / WEIGHTS, ns=(state.st_atime_ns, state.st_mtime_ns))


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edited(directory: Path) -> None:
        values = json.loads((directory / ENTRY).read_text())
        change(values)
        (directory / ENTRY).write_text(json.dumps(values))

    return edited


DAMAGE: dict[str, Callable[[Path], object]] = {
    "bytes changed, size and times kept": change_bytes,
    "weights truncated": lambda directory: os.truncate(directory / WEIGHTS, 3),
    "weights empty": lambda directory: os.truncate(directory / WEIGHTS, 0),
    "weights missing": lambda directory: (directory / WEIGHTS).unlink(),
    "model changed": lambda directory: (directory / MODEL).write_text("<other/>"),
    "example changed": lambda directory: (directory / "example.npz").write_bytes(b"another"),
    "entry empty": lambda directory: (directory / ENTRY).write_bytes(b""),
    "entry is not UTF-8": lambda directory: (directory / ENTRY).write_bytes(b"\xff\xfe{"),
    "entry is a list": lambda directory: (directory / ENTRY).write_text("[]"),
    "entry is nested deeply": lambda directory: (directory / ENTRY).write_text("[" * 100_000),
    "entry missing": lambda directory: (directory / ENTRY).unlink(),
    "entry is a directory": lambda directory: ((directory / ENTRY).unlink(), (directory / ENTRY).mkdir()),
    "no checksums": edit(lambda values: values.update(sums={})),
    "checksums of other files": edit(lambda values: values.update(sums={"../../x": "0"})),
    "of another CPU": edit(lambda values: values["identity"].update(cpu="another")),
    "of another version": edit(lambda values: values["identity"].update(libraries={"openvino": "1"})),
    "of other weights": edit(lambda values: values["identity"].update(weights="another")),
    "identity is a number": edit(lambda values: values.update(identity=3)),
    "a link to nothing": lambda directory: ((directory / WEIGHTS).unlink(), (directory / WEIGHTS).symlink_to("no")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_removed_and_made_again(damage: Callable[[Path], object]) -> None:
    directory = add().directory
    assert cache.find(key()) is not None
    damage(directory)
    assert cache.find(key()) is None
    assert not directory.exists()
    add(content=b"again")
    assert cache.find(key()) is not None


def test_a_compiled_program_counts_and_is_no_part_of_the_checks() -> None:
    entry = add()
    (entry.directory / SINGLE).write_bytes(bytes(1000))
    for found in (cache.find(key()), *cache.entries()):
        assert found is not None and found.bytes == entry.bytes + 1000
    (entry.directory / SINGLE).write_bytes(b"damaged")
    assert cache.find(key()) is not None, "the program checks it"
    assert cache.delete() and not entry.directory.exists()


def test_damage_to_the_record_of_checks_costs_only_another_check() -> None:
    directory = add().directory
    for damaged in (b"", b"{", b"[" * 100_000, b"[]", b'{"model.bin": 1}'):
        (directory / CHECKED).write_bytes(damaged)
        assert cache.find(key()) is not None
    (directory / CHECKED).unlink()
    assert cache.find(key()) is not None
    os.truncate(directory / WEIGHTS, 3)
    assert cache.find(key()) is None


def test_a_temporary_file_of_another_process_is_no_damage() -> None:
    """It may be gone between the listing of the directory and a look at it, as this one is."""
    directory = add().directory
    (directory / f".{CHECKED}.1-2.tmp").symlink_to("gone")
    assert cache.find(key()) is not None
    add("b")
    assert {entry.model for entry in cache.entries()} == {"a", "b"}


def test_links_are_replaced_and_what_they_link_to_stays(tmp_path: Path) -> None:
    directory = add().directory
    moved = tmp_path / "elsewhere"
    directory.rename(moved)
    directory.symlink_to(moved)
    assert cache.find(key()) is not None
    os.truncate(moved / WEIGHTS, 0)
    assert cache.find(key()) is None
    assert not directory.is_symlink() and (moved / ENTRY).is_file()
    add()
    assert cache.find(key()) is not None and not directory.is_symlink()


def test_a_file_in_place_of_an_entry_is_removed(root: Path) -> None:
    root.mkdir(parents=True)
    (root / key().digest).write_text("x")
    assert cache.find(key()) is None
    add()
    assert cache.find(key()) is not None


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_an_output_error_before_anything_is_converted(root: Path) -> None:
    root.mkdir(parents=True)
    root.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        cache.store(key(), lambda _: pytest.fail("converted for nothing"))


def test_a_file_in_place_of_the_cache_is_an_output_error(root: Path) -> None:
    root.parent.mkdir(parents=True)
    root.write_text("x")
    assert (cache.find(key()), cache.entries(), cache.delete()) == (None, [], [])
    with pytest.raises(OutputError, match="could not be written"):
        cache.store(key(), lambda _: pytest.fail("converted for nothing"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("Check 'stream' failed")])
def test_a_full_disk_leaves_nothing(error: Exception, root: Path) -> None:
    def fail(directory: Path) -> dict[str, Any]:
        (directory / MODEL).write_bytes(b"half")
        raise error

    with pytest.raises(OutputError, match="could not be written"):
        cache.store(key(), fail)
    assert list(root.iterdir()) == []


def add_elsewhere(name: str) -> None:
    other = threading.Thread(target=add, args=(name, b"first"))
    other.start()
    other.join()


def test_of_two_processes_the_first_ones_entry_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def while_another_stores(directory: Path) -> dict[str, Any]:
        add_elsewhere("a")
        return write(b"second")(directory)

    entry = cache.store(key(), while_another_stores)
    assert entry.path.with_name(WEIGHTS).read_bytes() == b"first"
    assert list(root.iterdir()) == [entry.directory]

    def rename_of_another(source: Path, target: Path) -> None:
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(root.parents[1]))
        add_elsewhere("b")
        os.rename(source, target)

    monkeypatch.setattr(cache.os, "rename", rename_of_another)  # between the look and the rename
    entry = cache.store(key("b"), write(b"second"))
    assert entry.path.with_name(WEIGHTS).read_bytes() == b"first"
    assert len(list(root.iterdir())) == 2


def test_the_bound_evicts_what_was_not_used_for_longest_but_never_what_was_just_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = add("a", b"x" * 100_000).bytes
    monkeypatch.setattr(cache, "MAX_BYTES", 2.5 * size)
    add("b", b"x" * 100_000)
    for name, age in (("a", 100), ("b", 200)):
        entry = cache.find(key(name))
        assert entry is not None
        os.utime(entry.directory / ENTRY, (time.time() - age, time.time() - age))
    assert cache.find(key("b")) is not None  # used now
    add("c", b"x" * 100_000)
    assert {entry.model for entry in cache.entries()} == {"b", "c"}
    monkeypatch.setattr(cache, "MAX_BYTES", 10)
    add("d", b"x" * 100_000)
    assert {entry.model for entry in cache.entries()} == {"d"}


def test_an_entry_that_another_process_removes_meanwhile_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    first = add("a").directory
    contents = cache._contents()
    cache._discard(first)
    monkeypatch.setattr(cache, "_contents", lambda: contents)
    assert cache.entries() == [] and cache.delete("a") == [] and cache.delete() == []


def test_delete_by_name_or_all(root: Path) -> None:
    for name in ("a", "b"):
        add(name)
    assert [entry.model for entry in cache.delete("a")] == ["a"]
    assert cache.delete("a") == [] and [entry.model for entry in cache.entries()] == ["b"]
    (root / "damaged").mkdir()
    assert [entry.model for entry in cache.delete()] == ["b"]
    assert list(root.iterdir()) == []
