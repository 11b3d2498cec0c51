"""Embeddings on disk: what is written, what is refused, and that nothing half-written is ever left."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_encoder.errors import ConfigError, MediaDecodeError, MediaTooLargeError, OutputError
from perception_encoder.formats.listing import Item
from perception_encoder.formats.tars import TarMember
from perception_encoder.inference import output, output_formats
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.inference.output_formats import read_embeddings
from perception_encoder.inference.pipeline import Embedding, EncodingResult, Failure
from perception_encoder.vectors import unit_rows
from tests.damage import at_most, plant_pipe

SETTINGS: dict[str, Any] = {
    "model": "PE-Core-N16-128",
    "weight_hash": "0123456789abcdef",
    "layer": 11,
    "pool": "attn",
    "normalized": True,
    "grid": [2, 3],
    "dimension": 4,
}
BAD = {3: MediaDecodeError("3.jpg", "is empty"), 8: MediaTooLargeError("8.jpg", "has 9 pixels")}


def small_parts() -> Any:
    """Write a part for each batch."""
    return patch("perception_encoder.inference.output.PART_SECONDS", 0.0)


def item(number: int) -> Item:
    return Item(f"{number}.jpg", f"{number}.jpg", Path(f"{number}.jpg"))


def result(number: int) -> EncodingResult[Item]:
    if number in BAD:
        return Failure(item(number), BAD[number])
    return Embedding(item(number), unit_rows(np.arange(4, dtype=np.float32) + number))


def batches(numbers: Iterable[int], size: int = 2) -> Iterator[list[EncodingResult[Item]]]:
    numbers = list(numbers)
    for start in range(0, len(numbers), size):
        yield [result(number) for number in numbers[start : start + size]]


def write(out: Path, count: int = 10, **settings: Any) -> EmbeddingWriter:
    """Write items 0 to `count` in one go, a shard a batch."""
    with small_parts(), EmbeddingWriter(out, SETTINGS, **settings) as writer:
        rest = [int(item.id.removesuffix(".jpg")) for item in writer.resume(map(item, range(count)))]
        for batch in batches(rest):
            writer.add(batch)
        writer.finish()
    return writer


def stop(out: Path, after: int) -> None:
    """Leave a run unfinished after some items."""
    with small_parts(), EmbeddingWriter(out, SETTINGS) as writer:
        for batch in batches(range(after)):
            writer.add(batch)


def test_no_good_input_at_all_leaves_nothing(tmp_path: Path) -> None:
    with EmbeddingWriter(tmp_path / "out.parquet", SETTINGS) as writer:
        writer.add([result(3)])
        assert writer.finish() == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("parts", [0, 1])
def test_a_run_that_fails_leaves_its_parts_if_there_are_any(parts: int, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), EmbeddingWriter(tmp_path / "out.parquet", SETTINGS) as writer:
        writer.add([result(number) for number in range(parts)])
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["out.parquet.parts"] * parts
    with EmbeddingWriter(tmp_path / "out.parquet", SETTINGS) as writer:
        assert writer.done == parts


def test_a_run_without_inputs_ends_without_a_file(tmp_path: Path) -> None:
    with EmbeddingWriter(tmp_path / "out.parquet", SETTINGS) as writer:
        assert writer.finish() == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("inputs", [[0, 1, 2], [0, 2, 1, 3, 4], [0, 1, 2, 4, 5], []])
def test_a_run_with_other_inputs_is_refused(tmp_path: Path, inputs: list[int]) -> None:
    stop(tmp_path / "out.parquet", after=4)
    with (
        pytest.raises(OutputError, match="other inputs"),
        EmbeddingWriter(tmp_path / "out.parquet", SETTINGS) as writer,
    ):
        list(writer.resume(map(item, inputs)))


CHANGES: dict[str, Any] = {
    "nothing": lambda path: None,
    "link": lambda path: os.link(path, path.with_name("link")),
    "mode": lambda path: path.chmod(0o600),
    "time": lambda path: os.utime(path, (1, 1)),
    "copy": lambda path: path.with_name("copy").write_bytes(path.read_bytes()) and path.with_name("copy").replace(path),
    "size": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "content": lambda path: path.write_bytes(path.read_bytes().replace(b"2", b"7")),
    "content, not time": lambda path: (
        status := path.stat(),
        path.write_bytes(path.read_bytes().replace(b"2", b"7")),
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns)),
    ),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("tar", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_run_resumes_while_its_files_have_the_same_content(
    change: str, tar: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PIECE", 64)  # files are read in pieces
    contents, items = [str(number).encode() * 300 for number in range(6)], []
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.jpg").write_bytes(content)
        source = TarMember(tmp_path / "all.tar", 300 * number, 300) if tar else tmp_path / f"{number}.jpg"
        items.append(Item(f"{number}.jpg", f"{number}.jpg", source))
    (tmp_path / "all.tar").write_bytes(b"".join(contents))
    out, results = tmp_path / "out.parquet", [Embedding(item, np.ones(4, np.float32)) for item in items]
    with small_parts(), EmbeddingWriter(out, SETTINGS) as writer:
        writer.add(results[:2])
        writer.add(results[2:4])
    CHANGES[change](tmp_path / ("all.tar" if tar else "2.jpg"))
    same = change in ("nothing", "link", "mode", "time", "copy") or (tar and change == "size")
    with (
        nullcontext() if same else pytest.raises(OutputError, match="began with other inputs; delete"),
        EmbeddingWriter(out, SETTINGS) as writer,
    ):
        assert [*writer.resume(items)] == items[4:]
        writer.add(results[4:])
        assert writer.finish() == 6


def test_a_large_file_is_recognised_by_pieces_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PIECE", 10)
    monkeypatch.setattr(output, "PIECES", 5)
    path, content, found = tmp_path / "film.mp4", bytes(range(200)), set()
    reads = [0, 9, 48, 57, 96, 149, 192, 199]  # of pieces at 0, 48, 96, 144 and 192
    for at in [None, 20, 70, *reads]:
        path.write_bytes(content if at is None else content[:at] + b"x" + content[at + 1 :])
        found.add(output._digest_of_content(str(at), path, 0, -1))
    assert len(found) == 1 + len(reads)


@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_an_output_is_replaced_on_request_only(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    write(out, 4)
    with pytest.raises(OutputError, match="exists"):
        write(out)
    assert os.listdir(tmp_path) == [name]
    write(out, overwrite=True)
    rows = pq.read_table(out if out.suffix else out / "metadata" / "metadata_0.parquet").num_rows
    assert rows == 8


def test_a_directory_of_other_objects_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(OutputError, match="other contents"):
        EmbeddingWriter(tmp_path / "photos", SETTINGS, overwrite=True)
    assert os.listdir(tmp_path) == ["photos"]


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Let no file grow over `limit` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_part_that_does_not_fit_leaves_nothing_and_the_rest_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    stop(out, after=4)
    kept = sorted(os.listdir(tmp_path / "out.parquet.parts"))
    with (
        pytest.raises(OutputError, match=r"000002\.parquet could not be written"),
        small_parts(),
        EmbeddingWriter(out, SETTINGS) as writer,
        small_files(1000),
    ):
        writer.add([result(number) for number in (4, 5)])
    assert sorted(os.listdir(tmp_path / "out.parquet.parts")) == kept
    write(out)
    assert pq.read_table(out).num_rows == 8


@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_an_output_that_does_not_fit_leaves_the_parts(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    with pytest.raises(OutputError, match="could not be written"), EmbeddingWriter(out, SETTINGS) as writer:
        for batch in batches(range(10)):
            writer.add(batch)
        writer.flush()
        with small_files(1000):
            writer.finish()
    assert os.listdir(tmp_path) == [f"{name}.parts"]
    assert not list((tmp_path / f"{name}.parts").glob("*.tmp"))
    write(out)
    assert os.listdir(tmp_path) == [name]


def test_a_row_says_what_its_vector_is(tmp_path: Path) -> None:
    row = Item("clip", "clip.mp4", Path("clip.mp4"), start=1.0, end=2.5, text="a dog")
    with EmbeddingWriter(tmp_path / "out.parquet", SETTINGS) as writer:
        writer.add([Embedding(row, np.ones(4, np.float32), (1.0, 1.5, 2.0))])
        assert writer.finish() == 1
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 4)
    assert table.to_pylist() == [
        {
            "id": "clip",
            "path": "clip.mp4",
            "start": 1.0,
            "end": 2.5,
            "text": "a dog",
            "times": [1.0, 1.5, 2.0],
            "model": "PE-Core-N16-128",
            "weight_hash": "0123456789abcdef",
            "layer": 11,
            "pool": "attn",
            "normalized": True,
            "vector": [1.0, 1.0, 1.0, 1.0],
        }
    ]
    assert json.loads(table.schema.metadata[b"perception_encoder"]) == SETTINGS
    assert os.listdir(tmp_path) == ["out.parquet"]


def test_texts_have_no_layer(tmp_path: Path) -> None:
    with EmbeddingWriter(tmp_path / "out.parquet", SETTINGS) as writer:
        writer.add([Embedding(Item("t:1", "t.csv", text="a \ud800 dog"), np.ones(4, np.float32))])
        writer.finish()
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (row["text"], row["path"], row["layer"], row["pool"]) == ("a \\ud800 dog", "t.csv", None, None)


def test_tokens_are_lists_of_vectors_with_their_grid(tmp_path: Path) -> None:
    image, video = (np.random.default_rng(0).random(shape, np.float32) for shape in ((6, 4), (2, 6, 4)))
    with EmbeddingWriter(tmp_path / "out.parquet", {**SETTINGS, "pool": "tokens"}) as writer:
        writer.add([Embedding(item(0), image), Embedding(item(1), video, (0.0, 1.0))])
        writer.finish()
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("vector").type == pa.list_(pa.list_(pa.float32(), 4))
    rows = table.to_pylist()
    assert [(row["frames"], row["grid_height"], row["grid_width"]) for row in rows] == [(1, 2, 3), (2, 2, 3)]
    np.testing.assert_array_equal(np.float32(rows[0]["vector"]), image)
    np.testing.assert_array_equal(np.float32(rows[1]["vector"]).reshape(2, 6, 4), video)


def test_a_directory_has_the_layout_of_clip_retrieval(tmp_path: Path) -> None:
    write(tmp_path / "emb")
    vectors = np.load(tmp_path / "emb" / "img_emb" / "img_emb_0.npy")
    rows = pq.read_table(tmp_path / "emb" / "metadata" / "metadata_0.parquet").to_pylist()
    good = [number for number in range(10) if number not in BAD]
    np.testing.assert_array_equal(
        vectors, unit_rows(np.stack([np.arange(4, dtype=np.float32) + number for number in good]))
    )
    assert vectors.dtype == np.float32
    assert [row["image_path"] for row in rows] == [f"{number}.jpg" for number in good]
    assert "vector" not in rows[0]
    assert os.listdir(tmp_path) == ["emb"]


def test_a_directory_of_texts_has_captions(tmp_path: Path) -> None:
    with EmbeddingWriter(tmp_path / "emb", SETTINGS) as writer:
        writer.add([Embedding(Item("t:1", "t.csv", text="a dog"), np.ones(4, np.float32))])
        writer.finish()
    assert np.load(tmp_path / "emb" / "text_emb" / "text_emb_0.npy").shape == (1, 4)
    assert pq.read_table(tmp_path / "emb" / "metadata" / "metadata_0.parquet")["caption"].to_pylist() == ["a dog"]


def test_where_shards_are_cut_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_formats, "GROUP_ROWS", 3)
    write(tmp_path / "many.parquet")
    with EmbeddingWriter(tmp_path / "one.parquet", SETTINGS) as writer:
        for batch in batches(range(10)):
            writer.add(batch)
        writer.finish()
    assert (tmp_path / "many.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert pq.ParquetFile(tmp_path / "one.parquet").num_row_groups == 3


def test_a_lance_table_holds_what_the_parquet_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lancedb = pytest.importorskip("lancedb")
    monkeypatch.setattr(output_formats, "GROUP_ROWS", 3)
    write(tmp_path / "out.parquet")
    write(tmp_path / "out.lance")
    table = lancedb.connect(tmp_path).open_table("out")
    tables = table.to_arrow(), pq.read_table(tmp_path / "out.parquet")
    assert tables[0].replace_schema_metadata() == tables[1].replace_schema_metadata()
    assert table.search([0.0, 1.0, 2.0, 3.0]).limit(1).to_list()[0]["path"] == "0.jpg"
    with pytest.raises(OutputError, match="exists"):
        write(tmp_path / "out.lance")
    write(tmp_path / "out.lance", 2, overwrite=True)
    assert lancedb.connect(tmp_path).open_table("out").count_rows() == 2
    (tmp_path / "other.lance" / "photos").mkdir(parents=True)
    with pytest.raises(OutputError, match="directory with other contents"):
        write(tmp_path / "other.lance", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["other.lance", "out.lance", "out.parquet"]


def test_formats_that_cannot_hold_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"are written to \.parquet"):
        EmbeddingWriter(tmp_path / "out.csv", SETTINGS)
    with pytest.raises(ConfigError, match="tokens"):
        EmbeddingWriter(tmp_path / "out", {**SETTINGS, "pool": "tokens"})
    assert os.listdir(tmp_path) == []


def test_files_without_checksums_and_parts_of_files_are_read(tmp_path: Path) -> None:
    """As other tools write them, and as users make them of ours."""
    write(tmp_path / "out.parquet")
    whole, vectors, settings = output_formats.read_embeddings(tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    pq.write_table(table.slice(2).select(["path", "vector"]), tmp_path / "few.parquet")
    rows, few, same = output_formats.read_embeddings(tmp_path / "few.parquet")
    assert rows["path"].to_pylist() == whole["path"].to_pylist()[2:] and same == settings
    np.testing.assert_array_equal(few, vectors[2:])
    write(tmp_path / "out")
    metadata = tmp_path / "out" / "metadata" / "metadata_0.parquet"
    pq.write_table(pq.read_table(metadata).replace_schema_metadata(), metadata)
    np.save(tmp_path / "out" / "img_emb" / "img_emb_0.npy", np.ones((8, 4), np.float16))
    rows, _, settings = output_formats.read_embeddings(tmp_path / "out")
    assert len(rows) == 8 and settings == {}


def test_settings_of_a_file_that_are_none_are_an_error(tmp_path: Path) -> None:
    for number, settings in enumerate((b"\xff", b"[1]", b"{")):
        path = tmp_path / f"{number}.parquet"
        rows = pa.table({"path": ["a"], "vector": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 0.0]), 2)})
        pq.write_table(rows.replace_schema_metadata({output_formats.METADATA: settings}), path)
        with pytest.raises(OutputError, match=rf"{number}\.parquet cannot be read"):
            output_formats.read_embeddings(path)


@pytest.mark.security
@pytest.mark.parametrize("name", ["img_emb/img_emb_0.npy", "metadata/metadata_0.parquet", "img_emb/img_emb_1.npy"])
def test_a_pipe_among_embeddings_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / name).unlink(missing_ok=True)
    plant_pipe(tmp_path / "out" / name)
    with (
        at_most(20, tmp_path / "out" / name),
        pytest.raises(OutputError, match=f"out cannot be read: .*{name} is not a regular file"),
    ):
        read_embeddings(tmp_path / "out")


@pytest.mark.security
def test_a_pipe_among_the_parts_of_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    stop(tmp_path / "out.parquet", after=4)
    for name in sorted(os.listdir(tmp_path / "out.parquet.parts")):
        (path := tmp_path / "out.parquet.parts" / name).rename(tmp_path / "kept")
        plant_pipe(path)
        with at_most(20, path), pytest.raises(OutputError, match=f"{name} is not a regular file"):
            write(tmp_path / "out.parquet")
        (tmp_path / "kept").rename(path)
    assert write(tmp_path / "out.parquet").done == 10


@pytest.mark.security
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("scale", [4e29, np.nan, np.inf, 0.0, 2.0])
def test_vectors_of_no_or_another_length_are_refused(scale: float, normalized: bool, tmp_path: Path) -> None:
    vectors = [np.eye(4, dtype=np.float32)[number % 4] for number in range(6)]
    vectors[4] = np.full(4, scale / 2, np.float32)
    settings = {**SETTINGS, "normalized": normalized}
    for name in ("out", "out.parquet", *(["out.lance"] if np.isfinite(scale) else [])):  # which takes no other numbers
        with EmbeddingWriter(tmp_path / name, settings) as writer:
            writer.add([Embedding(item(number), vector) for number, vector in enumerate(vectors)])
            writer.finish()
        if scale == 2.0 and not normalized:
            np.testing.assert_array_equal(read_embeddings(tmp_path / name)[1][3:5], [[0, 0, 0, 1], [0.5] * 4])
            continue
        with pytest.raises(OutputError, match=rf"{name} cannot be read: the vector of row 4 is zero, not finite or"):
            read_embeddings(tmp_path / name)
