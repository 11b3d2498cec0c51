"""The store: one writer, the same settings, complete or absent, typed reads. Its users are killed and resumed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import DataError, OutputError
from perception_encoder.files import digest
from perception_encoder.store import Store, _with_checksum
from tests.damage import at_most, plant_pipe


@dataclass(frozen=True)
class Row:
    key: str
    score: float


def line(text: str) -> str:
    """A line of records."""
    return _with_checksum(text.encode()).decode() + "\n"


def test_results_come_back_in_a_later_run(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    with Store(tmp_path / "s", {"model": "a", "size": (2, 3)}) as store:
        store.records(Row).append(Row("x", 1.5), Row("caf\udce9", 2))
        store.arrays(compressed=True).put("x", values)
        store.arrays("empty").put("x", values[:0])
        with store.part("p.txt") as path:
            path.write_text("whole")
    with Store(tmp_path / "s", {"model": "a", "size": (2, 3)}) as store:
        assert store.records(Row).rows == [Row("x", 1.5), Row("caf\udce9", 2)]
        assert (store.arrays(compressed=True).get("x") == values).all() and store.arrays().get("y") is None
        assert store.arrays("empty").get("x").shape == (0, 3)
        assert (store.path / "p.txt").read_text() == "whole"
        store.discard()
    assert not list(tmp_path.iterdir())


def test_one_writer_and_any_readers(tmp_path: Path) -> None:
    with Store(tmp_path, {"model": "a"}) as store:
        with pytest.raises(OutputError, match="another process is writing"):
            Store(tmp_path, {"model": "a"})
        store.records(Row).append(Row("x", 1))
        assert Store(tmp_path, {}, writable=False).records(Row).rows == [Row("x", 1)]
    Store(tmp_path, {"model": "a"}).close()


@pytest.mark.parametrize("writable", [True, False])
def test_another_setting_is_named(tmp_path: Path, writable: bool) -> None:
    Store(tmp_path, {"model": {"name": "a", "size": 3}, "seed": 0}).close()
    with pytest.raises(OutputError, match=r'model\.name "a", not "b"'):
        Store(tmp_path, {"model": {"name": "b", "size": 3}, "seed": 0}, remedy="choose another -o", writable=writable)
    Store(tmp_path, {"model": {"name": "a", "size": 3}, "seed": 0}, writable=writable).close()


def test_a_directory_of_other_files_and_a_missing_store_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(OutputError, match=r"is not empty and has no settings\.json"):
        Store(tmp_path, {})
    with pytest.raises(DataError, match=r"has no settings\.json"):
        Store(tmp_path / "missing", {}, writable=False)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("settings.json", "[1]", r"settings\.json is damaged \(the content is \[1\]; expected an object\); delete it"),
        ("settings.json", "{", r"settings\.json is damaged"),
        (
            "records.jsonl",
            line('{"key": "x", "score": "high"}'),
            r"records\.jsonl:1 is damaged: score is 'high'.*; delete it",
        ),
        ("records.jsonl", line('{"key": "x"}'), r"records\.jsonl:1 is damaged: score is missing"),
        (
            "records.jsonl",
            line('{"key": "x", "score": 1.0}').replace("1.0", "7.0"),
            "differs from its checksum; delete",
        ),
        ("records.jsonl", '{"key": "x", "score": 1.0}\n', r"records\.jsonl:1 is damaged: .* checksum; delete it"),
        ("arrays.bin", "\0" * 24, r"arrays\.bin is damaged \(24 bytes at 0 differ from their checksum\); delete it"),
        ("arrays.bin", "", r"arrays\.bin is damaged"),
    ],
)
def test_damage_is_one_error_that_names_the_file_and_the_remedy(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with Store(tmp_path, {}) as store:
        store.records(Row).append(Row("x", 1))
        store.arrays().put("x", np.ones(3))
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message), Store(tmp_path, {}, remedy="delete it") as store:
        store.records(Row)
        store.arrays().get("x")


def test_a_killed_write_leaves_nothing(tmp_path: Path) -> None:
    """A cut-off line, and bytes without a record; what `replacing` leaves is tested in test_files.py."""
    with Store(tmp_path, {}) as store:
        store.records(Row).append(Row("x", 1))
        store.arrays().put("x", np.ones(3))
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"key": "y", "sc')
    with (tmp_path / "arrays.bin").open("a") as file:
        file.write("half")
    assert Store(tmp_path, {}, writable=False).records(Row).rows == [Row("x", 1)]
    with Store(tmp_path, {}) as store:
        store.records(Row).append(Row("y", 2))
        store.arrays().put("y", np.zeros(2))
        assert store.records(Row).rows == [Row("x", 1), Row("y", 2)]
        assert store.arrays().get("x").tolist() == [1, 1, 1] and store.arrays().get("y").tolist() == [0, 0]


@pytest.mark.security
@pytest.mark.parametrize("name", ["settings.json", "records.jsonl", "arrays.jsonl", "arrays.bin"])
def test_a_pipe_in_a_finished_store_is_refused(tmp_path: Path, name: str) -> None:
    with Store(tmp_path / "s", {}) as store:
        store.arrays().put("x", np.ones(3))
        store.records(Row).append(Row("x", 1))
    (tmp_path / "s" / name).unlink()
    plant_pipe(tmp_path / "s" / name)
    with (
        at_most(20, tmp_path / "s" / name),
        pytest.raises((DataError, OutputError), match=rf"{name}.* (not a regular file|too short)"),
    ):
        store = Store(tmp_path / "s", {}, writable=False)
        store.records(Row)
        store.arrays().get("x")


@pytest.mark.security
@pytest.mark.parametrize("name", ["lock", "records.jsonl", "arrays.bin", "p.txt"])
def test_a_planted_link_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "mine").write_text("mine\n")
    Store(tmp_path / "s", {}).close()
    (tmp_path / "s" / name).unlink(missing_ok=True)
    (tmp_path / "s" / name).symlink_to(tmp_path / "mine")
    try:
        with Store(tmp_path / "s", {}) as store:
            with store.part("p.txt") as path:
                path.write_text("new")
            store.arrays().put("x", np.ones(3))
            store.records(Row).append(Row("x", 1))
    except OutputError as error:
        assert name in str(error)
    assert (tmp_path / "mine").read_text() == "mine\n"


def test_digests_tell_values_apart() -> None:
    values = [1, "1", [1], {"a": 1}, {"a": [1]}, "caf\udce9", "café", None, 1.5]
    assert len({digest(value) for value in values}) == len(values)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) and len(digest()) == 32
