"""Opening what an image or video comes from, and names that can be printed, stored and turned back."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.errors import InputError, MediaDecodeError, MediaNotFoundError
from perception_encoder.preprocess.budget import ByteBudget
from perception_encoder.preprocess.source import escape_name, open_source, unescape_name


def named(tmp_path: Path, what: str) -> Path:
    path = tmp_path / what
    match what:
        case "empty.jpg":
            path.touch()
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "file/inside.jpg":
            path.parent.touch()
    return path


@pytest.mark.skipif(os.name == "nt", reason="no named pipes")
@pytest.mark.parametrize(
    ("what", "error", "reason"),
    [
        ("missing.jpg", MediaNotFoundError, "no such file"),
        ("file/inside.jpg", MediaNotFoundError, "no such file"),
        ("zero\0byte.jpg", MediaNotFoundError, "no such file"),
        ("x" * 300, MediaDecodeError, "cannot be read: File name too long"),
        ("empty.jpg", MediaDecodeError, "is empty"),
        ("folder", MediaDecodeError, "is a directory"),
        ("pipe", MediaDecodeError, "is not a regular file"),
    ],
)
def test_what_is_no_file_is_a_typed_error(tmp_path: Path, what: str, error: type[InputError], reason: str) -> None:
    path = named(tmp_path, what)
    with pytest.raises(error) as caught, open_source(path):
        pass
    assert (caught.value.source, caught.value.reason) == (escape_name(path), reason)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("photos/a cat.jpg", "photos/a cat.jpg"),
        ("naïve 東京.png", "naïve 東京.png"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        (r"back\slash", r"back\\slash"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="a backslash parts folders")
def test_names_are_printable_and_reversible(path: str, name: str) -> None:
    assert escape_name(path) == name
    assert unescape_name(name) == path


@given(st.text(st.characters(codec=None), max_size=20))
@pytest.mark.skipif(os.name == "nt", reason="a backslash parts folders")
def test_any_name_survives(path: str) -> None:
    name = escape_name(path)
    assert unescape_name(name) == path
    assert len(name.encode("utf-8").splitlines()) <= 1


def test_large_ones_wait_and_one_over_the_limit_goes_alone() -> None:
    budget, held, most = ByteBudget(10), [0], []
    lock = threading.Lock()

    def work(size: int) -> None:
        with budget.holding(size):
            with lock:
                held[0] += size
                most.append((size, held[0]))
            time.sleep(0.01)
            with lock:
                held[0] -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (4, 4, 4, 25, 3, 3, 3, 6, 25, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(most) == 10 and max(sum_held for size, sum_held in most if size < 25) <= 10
    assert [sum_held for size, sum_held in most if size == 25] == [25, 25]


def test_what_an_admission_holds_is_free_after_an_error() -> None:
    budget = ByteBudget(10)
    with pytest.raises(OSError), budget.admission() as admit:
        admit(8)
        raise OSError
    with budget.admission() as admit:
        admit(10)
