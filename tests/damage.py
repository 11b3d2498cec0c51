"""Damage to files of any format: cut, emptied, replaced by a directory, with other bytes or other values inside."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
import sqlite3
import stat
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WRONG = (None, True, -1, 0, 3, 1.5, 1e308, float("nan"), 10**400, "", "x", "7", "a\0b", "\ud800", "é" * 3000)
WRONG = (*WRONG, [], [1], [None], ["a"], [[]], {}, {"id": 1}, [{}], [[1, 2], [3]])
"""Values in place of those in JSON."""
_CELLS = ("", "x", "-1", "nan", "1e999", "é", '"', "\t", "../x", "9" * 400)
_ODD: tuple[Any, ...] = (None, -1, 0, 2**62, 1.5, "", "x", "{}", b"\xff\x00", "[" * 2000)
"""Values in place of those in a database."""
DAMAGES = ("empty", "directory", "missing", "cut", "flipped", "overwritten", "values", "values", "values", "values")


def damage(path: Path, draw: random.Random, number: int) -> str:
    """Damage a file, the first few inputs each in another way; returns what was done."""
    kind = DAMAGES[number] if number < 7 else draw.choice(DAMAGES[3:])
    content = path.read_bytes()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else spoilt(content, path.name, kind, draw))
    return kind


def flip_bit(path: Path, draw: random.Random) -> str:
    """Change one bit of a file, unless it is empty; returns which."""
    if not (content := bytearray(path.read_bytes())):
        return "bit of nothing"
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at} of {path.name}"


def spoilt(content: bytes, name: str, kind: str, draw: random.Random) -> bytes:
    """The content with damage of a kind: "cut", "flipped", "overwritten", or "values" by the name's suffix."""
    if kind == "values":
        change = _CHANGES.get(Path(name).suffix, _overwritten)
        return change(content, draw)
    return {"cut": _cut, "flipped": _flipped, "overwritten": _overwritten}[kind](content, draw)


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(max(1, len(content)))]


def _flipped(content: bytes, draw: random.Random) -> bytes:
    """A few bits are others, half of the time near the start, where headers are."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8) if content else 0):
        most = len(changed) if draw.random() < 0.5 else min(len(changed), 200)
        changed[draw.randrange(most)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwritten(content: bytes, draw: random.Random) -> bytes:
    start = draw.randint(0, len(content))
    return content[:start] + draw.randbytes(draw.randint(0, 40)) + content[start + draw.randint(0, 40) :]


def damaged_value(value: Any, draw: random.Random) -> Any:
    """JSON with one of the values inside it, or all of it, replaced by something of another type, or deleted."""
    places = _places(value)
    if not places or draw.random() < 0.05:
        return copy.deepcopy(draw.choice(WRONG))
    *path, last = draw.choice(places)
    changed = copy.deepcopy(value)
    parent = changed
    for key in path:
        parent = parent[key]
    if draw.random() < 0.2:
        del parent[last]
    else:
        parent[last] = copy.deepcopy(draw.choice(WRONG))
    return changed


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values inside a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [item for key, one in inside for item in ((*path, key), *_places(one, (*path, key)))]


def _json(content: bytes, draw: random.Random) -> bytes:
    return json.dumps(damaged_value(json.loads(content), draw)).encode()


def _lines(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = _json(lines[at], draw)
    return b"\n".join(lines) + b"\n"


def _cells(content: bytes, draw: random.Random) -> bytes:
    """One cell of a table, or word of a text, is another, or missing."""
    rows = [line.split(",") for line in content.decode().split("\n")]
    row = draw.choice(rows)
    at = draw.randrange(len(row))
    row[at : at + draw.randint(0, 1)] = [draw.choice(_CELLS)][: draw.randint(0, 4)]
    return "\n".join(map(",".join, rows)).encode()


def _safetensors(content: bytes, draw: random.Random) -> bytes:
    """A value of the header, or inside the JSON of its metadata, is another."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    metadata = {name: text for name, text in header.get("__metadata__", {}).items() if text[:1] in "{["}
    if metadata and draw.random() < 0.75:
        name = draw.choice(sorted(metadata))
        header["__metadata__"][name] = json.dumps(damaged_value(json.loads(metadata[name]), draw))
    else:
        header = damaged_value(header, draw)
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + content[8 + size :]


def _parquet(content: bytes, draw: random.Random) -> bytes:
    """A column is missing or of another type, or a value of the metadata is another."""
    table = pq.read_table(io.BytesIO(content))
    at = draw.randrange(table.num_columns)
    name, rows = table.column_names[at], table.num_rows
    metadata = dict(table.schema.metadata or {})
    json_keys = [key for key, text in metadata.items() if text[:1] in (b"{", b"[") and not key.startswith(b"ARROW")]
    kind = draw.choice(
        ["dropped", "strings", "numbers", "nulls", "lists", "no rows", *["metadata"] * 4 * bool(json_keys)]
    )
    if kind == "metadata":
        key = draw.choice(json_keys)
        metadata[key] = _json(metadata[key], draw)
        table = table.replace_schema_metadata(metadata)
    elif kind == "dropped":
        table = table.drop_columns([name])
    elif kind == "no rows":
        table = table.slice(0, 0)
    else:
        value = {"strings": "x", "numbers": draw.choice([-1, 7, 2**60]), "nulls": None, "lists": [1.5]}[kind]
        table = table.set_column(at, name, pa.array([value] * rows)).replace_schema_metadata(metadata)
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def _database(content: bytes, draw: random.Random) -> bytes:
    """A cell is another, rows or a table are missing."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content[:18] + b"\1\1" + content[20:])  # without a write-ahead log
    connection.execute("PRAGMA ignore_check_constraints = 1")
    master = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    table = draw.choice(sorted(name for (name,) in master))
    column = draw.choice([row[1] for row in connection.execute(f"PRAGMA table_info({table})")])
    kind = draw.random()
    try:
        if kind < 0.1:
            connection.execute(f"DROP TABLE {table}")
        elif kind < 0.2:
            connection.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
        elif kind < 0.3:
            connection.execute(f"DELETE FROM {table}")
        else:
            connection.execute(f"UPDATE {table} SET {column} = ?", (draw.choice(_ODD),))
        connection.commit()
    except sqlite3.IntegrityError:  # not every column takes every value
        connection.rollback()
        connection.execute(f"DELETE FROM {table}")
        connection.commit()
    return connection.serialize()


def _tar(content: bytes, draw: random.Random) -> bytes:
    """A member's content is damaged, or its name or kind is another, or it is missing or doubled."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar.getmembers() if member.isreg()]
    at = draw.randrange(len(members))
    member, inside = members[at]
    kind = draw.choice(["content", "content", "content", "content", "name", "kind", "missing", "doubled"])
    if kind == "content":
        inside = spoilt(inside, member.name, draw.choice(("cut", "flipped", "overwritten", "values", "values")), draw)
        member.size = len(inside)
        members[at] = member, inside
    elif kind == "name":
        member.name = draw.choice(
            ["../x.json", "x", "é/\udc80.png", member.name + ".json", ".json", "a" * 300 + ".txt"]
        )
    elif kind == "kind":
        member.type = draw.choice([tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, b"9"])
    elif kind == "missing":
        del members[at]
    else:
        members.insert(draw.randrange(len(members)), members[at])
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", errors="surrogateescape") as tar:
        for member, inside in members:
            tar.addfile(member, io.BytesIO(inside))
    return stream.getvalue()


def _array(content: bytes, draw: random.Random) -> bytes:
    """An array of another type or shape."""
    array = np.load(io.BytesIO(content))
    changed = draw.choice([array[:-1], array.reshape(-1), array[None], array.astype(np.float64), array.astype("S8")])
    changed = draw.choice([changed, changed, array.astype(object), np.full_like(array, np.nan), array[:0]])
    stream = io.BytesIO()
    np.save(stream, changed, allow_pickle=True)
    return stream.getvalue()


def _checkpoint(content: bytes, draw: random.Random) -> bytes:
    """A value of a state dict is another."""
    import torch

    state = torch.load(io.BytesIO(content), weights_only=True)
    wrong: list[Any] = [None, 1, "x", [], {}, torch.zeros(1), torch.zeros(3, 2, dtype=torch.int64), torch.zeros(0)]
    name = draw.choice([*state])
    if draw.random() < 0.2:
        state = draw.choice(wrong)
    elif draw.random() < 0.2:
        del state[name]
    else:
        state[draw.choice([name, "x", 7])] = draw.choice(wrong)
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


Change = Callable[[bytes, random.Random], bytes]
_CHANGES: dict[str, Change] = {
    **dict.fromkeys((".json",), _json),
    **dict.fromkeys((".jsonl", ".ndjson"), _lines),
    **dict.fromkeys((".csv", ".tsv", ".txt"), _cells),
    **dict.fromkeys((".parquet", ".pq"), _parquet),
    **dict.fromkeys((".sqlite", ".db", ".pe-annotations"), _database),
    ".safetensors": _safetensors,
    ".tar": _tar,
    ".npy": _array,
    ".pt": _checkpoint,
}
"""How values are changed, by a file's suffix; other files get other bytes."""


def copy_tree(source: Path, target: Path) -> None:
    """A copy of a directory with the files' times, in place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def plant_pipe(path: Path, kind: str = "pipe") -> None:
    """Make a pipe or a socket, which nobody writes."""
    if kind == "pipe":
        os.mkfifo(path)
    else:
        os.mknod(path, stat.S_IFSOCK | 0o600)


@contextmanager
def at_most(seconds: float, pipe: Path) -> Iterator[None]:
    """Fail if the block takes longer, which then opens and closes the pipe: its readers find it empty and go on."""
    ended, late = threading.Event(), threading.Event()

    def release() -> None:
        if not ended.wait(seconds):
            late.set()
        while not ended.wait(0.05):
            with suppress(OSError):  # nobody reads it now
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))

    (thread := threading.Thread(target=release)).start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        assert not late.is_set(), f"it takes over {seconds} s"


def plant_trigger(database: Path, name: str, table: str, trigger: str) -> None:
    """Add a trigger, whose name may be an index's: then its definition stands before that, and SQLite knows both."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        known = connection.execute("SELECT * FROM sqlite_master WHERE name = ?", [name]).fetchall()
        connection.execute("DELETE FROM sqlite_master WHERE name = ?", [name])
        rows = [("trigger", name, table, 0, f"CREATE TRIGGER {name} {trigger}"), *known]
        connection.executemany("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", rows)


def plant_journal(database: Path, victim: Path) -> None:
    """Write a journal beside an SQLite database, of which SQLite would remove the victim when it opens the database."""
    name, magic = os.fsencode(victim), bytes.fromhex("d9d505f920a163d7")
    content = database.read_bytes()
    page = int.from_bytes(content[16:18])
    numbers = (0, 0, len(content) // page, 512, page)  # pages, nonce, pages of the database, bytes of a sector and page
    header = (magic + b"".join(number.to_bytes(4) for number in numbers)).ljust(512, b"\0")
    names = (2**30 // page + 1).to_bytes(4) + name + len(name).to_bytes(4) + sum(name).to_bytes(4) + magic
    Path(f"{database}-journal").write_bytes(header + names)
