"""A damaged index gives the right hits or an error, never other hits; and it says when it is unfinished."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.files import read_state, write_seal
from perception_encoder.search.storage.store import STORE, Store
from perception_encoder.search.storage.update import UpdateReport, update_store, writable_store

Update = Callable[..., UpdateReport]


@pytest.fixture
def folder(pictures: list[Path]) -> Path:
    return pictures[0].parent


@pytest.fixture
def hits(folder: Path, encoder: Encoder) -> Callable[..., list[tuple[str, float]]]:
    """The hits of a query, with their scores, as a new process would find them."""
    query = encoder.encode_texts("a cat")

    def hits(where: str | None = None) -> list[tuple[str, float]]:
        return [(row.path, round(score, 4)) for score, row in Store.open(folder).nearest(query, 20, where)]

    return hits


ALL = "size > 0"
"""A condition that all rows fulfil, so that the table is asked and not the snapshot."""


def flip(path: Path, at: int, bit: int = 0) -> bytes:
    """Flip a bit of a file; what the file held before."""
    content = path.read_bytes()
    path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
    return content


def data_file(folder: Path) -> Path:
    return max((folder / STORE / "moments.lance" / "data").iterdir(), key=lambda path: path.stat().st_size)


def test_a_flipped_bit_of_the_snapshot_changes_no_hit(update: Update, folder: Path, hits) -> None:
    update()
    expected, snapshot, chance = hits(), folder / STORE / "snapshot.arrow", random.Random(2504)
    length = snapshot.stat().st_size
    for number in range(100):
        old = flip(snapshot, chance.randrange(length), number % 8)
        index = Store.open(folder)
        assert index._snapshot is None
        if number % 25 == 0:
            assert hits() == expected
        snapshot.write_bytes(old)
    flip(snapshot, length // 2)
    update()  # mends it
    assert Store.open(folder)._snapshot is not None and hits() == expected


def test_a_flipped_bit_of_the_table_is_named(update: Update, folder: Path, hits) -> None:
    update()
    (folder / "03.jpg").unlink()
    update()  # so that there are deletions
    expected, chance = hits(ALL), random.Random(2504)
    table = folder / STORE / "moments.lance"
    kinds = set()
    for path in (path for path in table.rglob("*") if path.is_file()):
        if path.parent.name == "_transactions":
            continue
        kinds.add(path.parent.name)
        for _ in range(12):
            times = path.stat()
            old = flip(path, chance.randrange(path.stat().st_size), chance.randrange(8))
            with pytest.raises(SearchIndexError, match=rf"{path.name} has changed since it was written.* --rebuild"):
                hits()
            path.write_bytes(old)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert kinds == {"data", "_versions", "_deletions"}
    assert hits(ALL) == hits() == expected


def test_what_nobody_wrote_is_seen_by_those_that_write(update: Update, folder: Path) -> None:
    """Bits that turn on the disk change no time."""
    update()
    data = data_file(folder)
    times = data.stat()
    flip(data, 5000)
    os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(SearchIndexError, match=rf"{data.name} has changed since it was written.* pe index --rebuild"):
        update()
    assert update(rebuild=True).added == 20


def test_a_copy_with_other_times_is_sound(update: Update, folder: Path, hits) -> None:
    update()
    expected = hits()
    for path in (folder / STORE).rglob("*"):
        os.utime(path, (1, 1))
    assert hits() == hits(ALL) == expected and update().unchanged == 20


def test_an_update_without_changes_writes_nothing(update: Update, folder: Path) -> None:
    def files() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / STORE).rglob("*")}

    update()
    before = files()
    assert update().unchanged == 20 and files() == before


def test_a_missing_file_is_named(update: Update, folder: Path, hits) -> None:
    update()
    (folder / "03.jpg").unlink()
    update()
    expected = hits(ALL)
    for path in [path for path in (folder / STORE).rglob("*") if path.is_file()]:
        path.rename(folder / "aside")
        if path.name == "settings.json":
            assert not Store.exists(folder)
        elif path.parent.name in {"data", "_versions", "_deletions"}:
            with pytest.raises(SearchIndexError, match=rf"{path.name} is missing\); .* --rebuild"):
                hits()
        else:
            assert hits(ALL) == expected
        (folder / "aside").rename(path)
    assert hits() == expected


def test_noise_in_the_small_files_raises_nothing_else(update: Update, folder: Path, hits) -> None:
    update()
    expected, chance, place = hits(), random.Random(7), folder / STORE
    names = ("settings.json", "seal.json")
    whole = {name: (place / name).read_bytes() for name in names}
    for number in range(90):
        name = names[number % 2]
        noisy = bytearray(whole[name])
        noise = chance.choice((b"\xff\xfe", b"[" * 100_000, b'"', b"null", b"-1", b"\0", b"{}", b"9" * 400))
        at = chance.choice((0, chance.randrange(len(noisy))))
        noisy[at : at + chance.choice((1, 4, len(noisy)))] = noise
        (place / name).write_bytes(noisy)
        try:
            assert hits() == expected
        except SearchIndexError as error:
            assert name == "settings.json" and "\n" not in str(error) and len(str(error)) < 500
        (place / name).write_bytes(whole[name])
    assert hits() == expected


def test_a_stopped_run_is_unfinished_until_the_next(
    update: Update, folder: Path, hits, draw: Callable[[int], Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    update()
    assert not Store.open(folder).unfinished
    draw(70).save(folder / "new.jpg")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for when in ("finish", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Store, when, stop)
            with pytest.raises(KeyboardInterrupt):
                update()
        assert Store.open(folder).unfinished and len(hits(ALL)) in (20, 21)
        draw(71).save(folder / "newer.jpg")
    update()
    assert not Store.open(folder).unfinished and len(Store.open(folder)) == 22


def test_a_commit_that_the_seal_does_not_know_is_used(update: Update, folder: Path, hits) -> None:
    """As a kill between the two leaves it."""
    update()
    index = Store.open(folder)
    index.table.delete("path = '03.jpg'")
    opened = Store.open(folder)
    assert opened.unfinished and opened._snapshot is None
    assert len(hits()) == 19 and "03.jpg" not in dict(hits())
    data = data_file(folder)
    flip(data, 3000)
    with pytest.raises(SearchIndexError, match="has changed since it was written"):
        hits()


def test_an_index_without_a_seal_is_read_and_gets_one(update: Update, folder: Path, hits) -> None:
    update()
    expected = hits()
    (folder / STORE / "seal.json").unlink()
    assert Store.open(folder).unfinished and hits() == expected
    update()
    assert not Store.open(folder).unfinished and hits() == expected


def test_noise_in_a_table_without_a_seal_raises_nothing_else(update: Update, folder: Path, encoder: Encoder) -> None:
    """LanceDB panics over some of it."""
    update()
    (folder / STORE / "seal.json").unlink()
    files = sorted(path for path in (folder / STORE / "moments.lance").rglob("*") if path.is_file())
    chance, query, refused = random.Random(2504), encoder.encode_texts("a cat"), 0
    for _ in range(60):
        path = chance.choice(files)
        whole = path.read_bytes()
        noisy = bytearray(whole)
        for _ in range(60):
            noisy[chance.randrange(len(noisy))] = chance.randrange(256)
        path.write_bytes(noisy[: chance.choice((len(noisy), chance.randrange(len(noisy))))])
        try:
            index = Store.open(folder)
            index.rows(thumbnails=True)
            index.nearest(query, 5)
        except SearchIndexError:
            refused += 1
        path.write_bytes(whole)
    assert refused > 10


def test_a_seal_is_not_put_on_damage(update: Update, folder: Path) -> None:
    update()
    place = folder / STORE
    state = read_state(place)
    data = data_file(folder)
    flip(data, 3000)
    with pytest.raises(ValueError, match=f"{data.name} has changed since it was written"):
        write_seal(place, 2, state.seal)
    with pytest.raises(ValueError, match="commit 99 is missing"):
        write_seal(place, 99, None)


@pytest.mark.parametrize(
    ("what", "when"),
    [
        *(("", "embed_pixels"), ("", "commit"), ("", "unchanged")),
        *(("moments.lance", "commit"), ("settings.json", "unchanged")),
    ],
)
def test_an_index_that_is_removed_meanwhile_is_an_error(
    what: str, when: str, update: Update, folder: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable
) -> None:
    update()
    draw(70).save(folder / "new.jpg")
    if when == "unchanged":
        (folder / "new.jpg").unlink()
    places = {"embed_pixels": (Encoder, "embed_pixels"), "commit": (Store, "replace"), "unchanged": (Store, "finish")}
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
    assert len(Store.open(folder)) == 20 + (when != "unchanged")


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
            with writable_store(folder, str(checkpoint), directory=home) as (index, own):
                update_store(index, own)  # the second time, no file has changed
            assert modes(home / STORE) == seen
        with writable_store(folder, str(checkpoint), rebuild=True, directory=home) as (index, own):
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


@pytest.mark.skipif(os.name == "nt", reason="POSIX links")
@pytest.mark.parametrize("name", ["lock", "settings.json", "seal.json", "snapshot.arrow"])
def test_a_link_in_an_index_leads_to_no_writing(name: str, update: Update, folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "diary.txt"
    victim.write_text("dear diary")
    (folder / STORE).mkdir()
    (folder / STORE / name).symlink_to(victim)
    if name == "lock":
        with pytest.raises(OutputError, match="lock is a link, which is not followed; remove it"):
            update()
    elif name == "settings.json":  # an index, whose settings are none
        with pytest.raises(SearchIndexError, match="--rebuild"):
            update()
        update(rebuild=True, directory=folder)
    else:
        update()
    assert victim.read_text() == "dear diary"
