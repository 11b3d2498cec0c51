"""What a search leaves out and does not find is said: files of other types, missing queries, no hits, duplicates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Run

NOTE = "note: files of unsupported types: 5 ("
COUNTS = {".psd": 1, ".tga": 1, ".svg": 1, ".txt": 1, ".xmp": 1}


@pytest.fixture
def directory(tmp_path: Path, draw: Callable[[int], Image.Image]) -> Path:
    """Three images, one of them twice in other sizes, and five other files."""
    directory = tmp_path / "photos"
    (directory / "deep").mkdir(parents=True)
    for number in range(3):
        draw(number).save(directory / f"{number}.png")
    with Image.open(directory / "0.png") as image:
        image.resize((image.width * 2, image.height * 2)).save(directory / "deep" / "large.png")
    for name in ("a.PSD", "deep/b.tga", "c.svg", "notes.txt", "deep/list.xmp", ".hidden.txt"):
        (directory / name).write_bytes(b"no image")
    return directory


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("search", ("a cat", "--json")),
        ("classify", ("--labels", "cat,dog", "--json")),
        ("index", ("--json",)),
        ("embed", ("-o", "v.parquet")),
    ],
)
def test_files_of_other_types_are_counted(
    command: str,
    options: tuple[str, ...],
    run_pe: Callable[..., Run],
    directory: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = (options[0], directory, *options[1:]) if command == "search" else (directory, *options)
    run = run_pe(command, *inputs, "-m", checkpoint)
    assert run.status == 0 and NOTE in run.stderr
    if "--json" in options:
        report = json.loads(run.stdout)
        (report,) = report["folders"].values() if command == "index" else (report,)
        assert report["left_out"] == COUNTS


def test_a_file_that_is_gone_is_not_counted(run_pe: Callable[..., Run], directory: Path, checkpoint: Path) -> None:
    assert run_pe("index", directory, "-m", checkpoint).status == 0
    (directory / "a.PSD").unlink()
    assert "unsupported types: 4 (" in run_pe("index", directory, "-m", checkpoint).stderr


def test_a_missing_query_image_is_an_error(run_pe: Callable[..., Run], directory: Path, checkpoint: Path) -> None:
    run = run_pe("search", "missing.jpg", directory, "-m", checkpoint)
    assert run.status == 2 and run.stdout == ""
    assert "error: missing.jpg: no such file; search for the text with --text 'missing.jpg'" in run.stderr
    assert run_pe("search", "a cat", "-", "2:gone.png", directory, "-m", checkpoint).status == 2
    assert run_pe("search", "--text", "missing.jpg", directory, "-m", checkpoint).status == 0


def test_no_hits_are_reported(run_pe: Callable[..., Run], directory: Path, checkpoint: Path) -> None:
    assert run_pe("index", directory, "-m", checkpoint).status == 0
    run = run_pe("search", "a cat", directory, "--where", "date < '1980'")
    assert run.status == 0 and "note: no hits for “a cat”\n" in run.stderr
    run = run_pe("search", "a cat", directory, "--where", "date < 'tomorrow'")
    assert run.status == 2 and "error: 'tomorrow' is not a date" in run.stderr
    run = run_pe("near-duplicates", directory, "--where", "width = 1")
    assert run.status == 0 and "note: no near-duplicates\n" in run.stderr


@pytest.fixture
def copied(directory: Path, run_pe: Callable[..., Run], checkpoint: Path) -> Path:
    """The directory, indexed, with a copy of an image as well."""
    (directory / "copy.png").write_bytes((directory / "0.png").read_bytes())
    assert run_pe("index", directory, "-m", checkpoint).status == 0
    return directory


def groups_of(run: Run) -> list[set[str]]:
    return [{hit["path"] for hit in group} for group in json.loads(run.stdout)["groups"]]


def test_duplicates_have_a_minimum_score(run_pe: Callable[..., Run], copied: Path) -> None:
    assert max(map(len, groups_of(run_pe("near-duplicates", copied, "--min-score", "0.5", "--json")))) >= 3
    exact = groups_of(run_pe("near-duplicates", copied, "--min-score", "0.99999", "--json"))
    assert exact == [{str(copied / "0.png"), str(copied / "copy.png")}]


def test_all_but_the_largest_of_each_group_are_listed(run_pe: Callable[..., Run], copied: Path) -> None:
    groups = groups_of(run_pe("near-duplicates", copied, "--min-score", "0.5", "--json"))
    spare = ("near-duplicates", "--min-score", "0.5", "--all-but-one", copied)
    paths = set(run_pe(*spare, "-0").stdout.rstrip("\0").split("\0"))
    assert [len(group - paths) for group in groups] == [1] * len(groups) and paths < set.union(*groups)
    assert str(copied / "deep" / "large.png") not in paths  # it has the most pixels
    assert len(run_pe(*spare, "--top", "1", "-0").stdout.rstrip("\0").split("\0")) == len(paths)


def test_near_duplicates_need_an_index_a_score_and_a_directory(
    run_pe: Callable[..., Run], copied: Path, checkpoint: Path
) -> None:
    for arguments, message in (
        ((copied, "--min-score", "1.5"), "score is 1.5; a cosine similarity must be above 0 and at most 1"),
        (("gone",), "error: gone: no such file or directory"),
        ((checkpoint.parent, "--top", "3"), f"need an index; create one with: pe index {checkpoint.parent}"),
    ):
        run = run_pe("near-duplicates", *arguments)
        assert run.status == 2 and message in " ".join(run.stderr.replace("│", " ").split())
