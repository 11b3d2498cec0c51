"""`pe search`: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_encoder.cli.search import COLUMNS
from perception_encoder.inference.encoder import Encoder
from tests.clips import clip
from tests.search.indexes import assert_same_ranking


def test_images_and_texts_may_be_looked_for_at_once(run_pe, checkpoint: Path, image_files: list[Path]) -> None:
    copy = image_files[0].with_name("copy [b].jpg")
    copy.write_bytes(image_files[5].read_bytes())
    options = ("--image", image_files[5], "--text", "a [/cat]", "--top", "2", "--model", checkpoint)
    run = run_pe("search", image_files[0].parent, *options)
    assert run.status == 0, run.stderr
    assert "“a [/cat]”" in run.stdout and "like 05.jpg" in run.stdout
    assert "1.000" in run.stdout and "copy[b].jpg" in "".join(run.stdout.split())


def test_videos_are_hits_with_a_time_and_bad_files_reported(run_pe, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip(60))
    (tmp_path / "empty.jpg").touch()
    arguments = ("search", "a dog", tmp_path, "--model", checkpoint, "--json")
    run = run_pe(*arguments)
    assert run.status == 0 and "empty.jpg: is empty" in run.stderr
    assert run_pe(*arguments, "--strict").status == 1
    printed = json.loads(run.stdout)
    (hit,) = printed["queries"][0]["hits"]
    assert 0 <= hit["time"] < 2.4
    assert printed["skipped"] == [{"path": str(tmp_path / "empty.jpg"), "reason": "is empty"}]


def test_a_contact_sheet_has_a_row_for_each_query(
    run_pe, checkpoint: Path, image_files: list[Path], tmp_path: Path
) -> None:
    page = tmp_path / "hits.html"
    texts = ("--text", "<b>a cat</b>", "--text", "a dog")
    run = run_pe("search", *texts, image_files[0].parent, "--top", "4", "--html", page, "--model", checkpoint)
    assert run.status == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<section>") == 2 and text.count("<li class") == 8
    assert "&lt;b&gt;a cat&lt;/b&gt;" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a red mug",), "name a directory as well"),
        ((" ", "."), "the query is empty"),
        (("x" * 10_001, "."), "10,001 characters; the limit is 10,000"),
        (("--image", "missing.jpg", "."), "missing.jpg: no such file"),
        (("a cat", "."), "no images or videos in ."),
        (("a cat", "gone"), "error: gone: no such file or directory"),
        ((".", "a cat"), "a cat: no such file or directory; if it is part of the query: pe search 'a cat' ."),
        (("a", "cat", "."), "cat: no such file or directory; if it is part of the query: pe search 'a cat' ."),
        (("a cat", "*.jpg"), "error: *.jpg: matches no file"),
        (("--near-duplicates", "."), "no such option: --near-duplicates; did you mean 'pe near-duplicates'?"),
        (("--top", "0", "a cat", "."), "--top"),
        (("--json", "--print0", "a cat", "."), "cannot be combined with --print0"),
    ],
)
def test_usage_errors(run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_pe("search", *arguments, "--model", "no-such-model")
    assert run.status == 2 and message in " ".join(run.stderr.replace("│", " ").split()) and run.stdout == ""


def test_a_page_replaces_no_directory_and_no_image(run_pe, checkpoint: Path, image_files: list[Path]) -> None:
    directory = image_files[0].parent
    for page, message in (
        (directory, "must end in .html"),
        (image_files[1], "must end in .html"),
        (directory / "a.html", "is a directory"),
    ):
        (directory / "a.html").mkdir(exist_ok=True)
        run = run_pe("search", "a cat", image_files[0], "--html", page, "--model", checkpoint)
        assert run.status == 2 and message in run.stderr
    assert all(path.is_file() for path in image_files)


def test_a_bad_query_costs_no_encoding(run_pe, checkpoint: Path, image_files: list[Path], monkeypatch) -> None:
    monkeypatch.setattr("perception_encoder.search.index.encode_media", None)
    (image_files[0].parent / "cut.png").write_bytes(image_files[0].read_bytes()[:200])
    run = run_pe("search", "--image", image_files[0].parent / "cut.png", image_files[1], "--model", checkpoint)
    assert run.status == 2 and "cut.png" in run.stderr


@pytest.mark.parametrize("out", ["out.parquet", "out.lance", "out"])
def test_what_was_embedded_is_searched_without_the_files(
    run_pe, checkpoint: Path, image_files: list[Path], tmp_path: Path, out: str
) -> None:
    (image_files[0].parent / "clip.mp4").write_bytes(clip(60))
    directory, exact = image_files[0].parent, ("--model", checkpoint, "--precision", "float32")
    query = ("--text", "a red mug", "--json", *exact)
    assert run_pe("embed", directory, "-o", tmp_path / out, *exact).status == 0
    expected = json.loads(run_pe("search", *query, f"{directory}/*").stdout)["queries"][0]["hits"]
    for path in image_files:
        path.unlink()
    run = run_pe("search", *query, tmp_path / out)
    assert run.status == 0, run.stderr
    hits = json.loads(run.stdout)["queries"][0]["hits"]
    assert_same_ranking(hits, expected)
    for model in ("builtin", "PE-Core-L14-336"):
        other = run_pe("search", "a cat", tmp_path / out, "--model", model)
        assert other.status == 2 and f"was not made with {model}" in other.stderr


def test_embeddings_of_another_layer_are_not_searched(run_pe, image_files: list[Path], tmp_path: Path) -> None:
    given = image_files[0], tmp_path / "out.parquet", "--model", "builtin-spatial"
    run_pe("embed", *image_files, "-o", given[1], *given[2:], "--layer", "3")
    run = run_pe("search", *given)
    assert run.status == 2 and run.stderr.count("\n") == 1
    assert "out.parquet was made with layer 3, not 11, so it cannot be searched with this encoder" in run.stderr


def test_clip_retrieval_s_own_directories_are_searched(
    run_pe, checkpoint: Path, encoder: Encoder, image_files: list[Path], tmp_path: Path
) -> None:
    vectors = encoder.encode_images(image_files).astype(np.float16)
    for name in ("img_emb", "metadata"):
        (tmp_path / "emb" / name).mkdir(parents=True)
    for part, chosen in ((0, slice(0, 12)), (1, slice(12, 20))):
        np.save(tmp_path / "emb" / "img_emb" / f"img_emb_{part}.npy", vectors[chosen])
        table = pa.table({"image_path": list(map(str, image_files[chosen]))})
        pq.write_table(table, tmp_path / "emb" / "metadata" / f"metadata_{part}.parquet")
    exact = ("--model", checkpoint, "--precision", "float32")
    run = run_pe("search", "--image", image_files[15], tmp_path / "emb", *exact, "--json", "--top", "3")
    assert run.status == 0, run.stderr
    hits = json.loads(run.stdout)["queries"][0]["hits"]
    scores = vectors.astype(np.float32) @ vectors[15].astype(np.float32)
    best = [row for row in np.argsort(-scores) if row != 15][:3]
    expected = [{"path": str(image_files[row]), "score": scores[row]} for row in best]
    assert_same_ranking(hits, expected, 1e-3)  # the vectors are stored in float16
    (tmp_path / "emb" / "img_emb" / "img_emb_1.npy").unlink()
    run = run_pe("search", "a cat", tmp_path / "emb", "--model", checkpoint)
    assert run.status == 2 and "12 vectors, but 20 rows of metadata" in run.stderr


@pytest.fixture
def directory(image_files: list[Path]) -> Path:
    """A directory of images and a video, whose name is longer than a line of the terminal."""
    directory = image_files[0].parent / ("long " * 30).strip()
    directory.mkdir()
    (directory / "clip.mp4").write_bytes(clip(60))
    for path in image_files[:4]:
        path.rename(directory / path.name)
    return directory


def test_a_pipe_gets_one_table_with_all_columns_and_whole_paths(run_pe, checkpoint: Path, directory: Path) -> None:
    run = run_pe("search", "--text", "a cat", "--text", "a dog", directory, "-m", checkpoint, "--top", "5")
    assert run.status == 0, run.stderr
    header, *rows = (line.split("\t") for line in run.stdout.splitlines())
    assert tuple(header) == COLUMNS and len(rows) == 10
    cells = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    assert [cell["query"] for cell in cells] == ["“a cat”"] * 5 + ["“a dog”"] * 5
    assert {cell["path"] for cell in cells} == set(map(str, directory.iterdir()))
    assert {bool(cell["time"]) for cell in cells if cell["path"].endswith("clip.mp4")} == {True}
    assert run_pe("index", directory, "-m", checkpoint).status == 0
    header, *rows = (line.split("\t") for line in run_pe("search", "a cat", directory).stdout.splitlines())
    assert tuple(header) == COLUMNS and all(row[COLUMNS.index("id")] for row in rows)


def test_a_terminal_gets_a_heading_and_the_columns_with_values(
    run_pe, checkpoint: Path, directory: Path, terminal
) -> None:
    run = run_pe("search", "a cat", *directory.glob("*.jpg"), "-m", checkpoint)
    heading, columns, *_ = run.stdout.splitlines()
    assert heading == "“a cat”" and columns.split() == ["rank", "score", "path"]
    run = run_pe("search", "a cat", directory, "-m", checkpoint)
    assert run.stdout.splitlines()[1].split() == ["rank", "score", "path", "time"]


def test_paths_only(run_pe, checkpoint: Path, directory: Path) -> None:
    hits = run_pe("search", "a cat", directory, "-m", checkpoint).stdout.splitlines()[1:]
    run = run_pe("search", "a cat", directory, "-m", checkpoint, "--print0")
    assert run.status == 0
    assert run.stdout == "".join(row.split("\t")[COLUMNS.index("path")] + "\0" for row in hits)


def test_paths_of_near_duplicates_and_the_status_of_skipped_inputs(run_pe, checkpoint: Path, directory: Path) -> None:
    (directory / "copy.jpg").write_bytes((directory / "01.jpg").read_bytes())
    (directory / "empty.jpg").touch()
    run = run_pe("search", "a cat", directory, "-m", checkpoint, "-0", "--strict")
    assert run.status == 1 and "empty.jpg: is empty" in run.stderr and run.stdout.count("\0") == 6
    assert run_pe("index", directory, "-m", checkpoint).status == 0
    run = run_pe("near-duplicates", directory, "-0", "--where", "kind = 'image'")
    assert {str(directory / "copy.jpg"), str(directory / "01.jpg")} <= set(run.stdout.split("\0"))
