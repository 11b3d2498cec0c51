"""How hits are printed: one stable table in a pipe, a short one on a terminal, paths, NUL bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli.search import COLUMNS
from tests.clips import clip


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


@pytest.mark.parametrize(("option", "end"), [("--paths-only", "\n"), ("--print0", "\0"), ("-0", "\0")])
def test_paths_only(run_pe, checkpoint: Path, directory: Path, option: str, end: str) -> None:
    hits = run_pe("search", "a cat", directory, "-m", checkpoint).stdout.splitlines()[1:]
    run = run_pe("search", "a cat", directory, "-m", checkpoint, option)
    assert run.status == 0
    assert run.stdout == "".join(row.split("\t")[3] + end for row in hits)


def test_paths_of_near_duplicates_and_the_status_of_skipped_inputs(run_pe, checkpoint: Path, directory: Path) -> None:
    (directory / "copy.jpg").write_bytes((directory / "01.jpg").read_bytes())
    (directory / "empty.jpg").touch()
    run = run_pe("search", "a cat", directory, "-m", checkpoint, "--paths-only", "--strict")
    assert run.status == 1 and "empty.jpg: is empty" in run.stderr and len(run.stdout.splitlines()) == 6
    assert run_pe("index", directory, "-m", checkpoint).status == 0
    run = run_pe("search", "--near-duplicates", directory, "--paths-only", "--where", "kind = 'image'")
    assert {str(directory / "copy.jpg"), str(directory / "01.jpg")} <= set(run.stdout.splitlines())
