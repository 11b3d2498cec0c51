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


def test_files_of_other_types_are_counted(
    run_pe: Callable[..., Run], directory: Path, checkpoint: Path, tmp_path: Path
) -> None:
    model = ("-m", checkpoint)
    run = run_pe("search", "a cat", directory, *model, "--json")
    assert run.status == 0 and NOTE in run.stderr and json.loads(run.stdout)["left_out"] == COUNTS
    run = run_pe("embed", directory, "-o", tmp_path / "v.parquet", *model)
    assert run.status == 0 and NOTE in run.stderr
    run = run_pe("classify", directory, "--labels", "cat,dog", *model, "--json")
    assert run.status == 0 and NOTE in run.stderr and json.loads(run.stdout)["left_out"] == COUNTS
    run = run_pe("index", directory, *model, "--json")
    (report,) = json.loads(run.stdout)["folders"].values()
    assert run.status == 0 and NOTE in run.stderr and report["left_out"] == COUNTS
    (directory / "a.PSD").unlink()
    assert "unsupported types: 4 (" in run_pe("index", directory, *model).stderr


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


def test_duplicates_have_a_minimum_score_and_all_but_one_are_listed(
    run_pe: Callable[..., Run], directory: Path, checkpoint: Path
) -> None:
    (directory / "copy.png").write_bytes((directory / "0.png").read_bytes())
    assert run_pe("index", directory, "-m", checkpoint).status == 0
    run = run_pe("near-duplicates", directory, "--min-score", "0.5", "--json")
    groups = json.loads(run.stdout)["groups"]
    assert max(map(len, groups)) >= 3
    exact = json.loads(run_pe("near-duplicates", directory, "--min-score", "0.99999", "--json").stdout)
    assert [sorted(Path(hit["path"]).name for hit in group) for group in exact["groups"]] == [["0.png", "copy.png"]]
    spare = ("near-duplicates", "--min-score", "0.5", "--all-but-one", directory)
    paths = set(run_pe(*spare, "-0").stdout.rstrip("\0").split("\0"))
    of_groups = [{hit["path"] for hit in group} for group in groups]
    assert [len(group - paths) for group in of_groups] == [1] * len(groups) and paths < set.union(*of_groups)
    assert str(directory / "deep" / "large.png") not in paths  # it has the most pixels
    assert len(run_pe(*spare, "--top", "1", "-0").stdout.rstrip("\0").split("\0")) == len(paths)
    run = run_pe("near-duplicates", directory, "--min-score", "1.5")
    assert run.status == 2 and "score is 1.5; a cosine similarity must be above 0 and at most 1" in run.stderr
    run = run_pe("near-duplicates", "gone")
    assert run.status == 2 and "error: gone: no such file or directory" in run.stderr
    run = run_pe("near-duplicates", checkpoint.parent, "--top", "3")
    assert run.status == 2 and f"need an index; create one with: pe index {checkpoint.parent}" in " ".join(
        run.stderr.replace("│", " ").split()
    )
