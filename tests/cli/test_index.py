"""`pe index`, and `pe search` in a directory that has an index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import OutputError
from perception_encoder.inference.load import load_spec
from perception_encoder.search.storage.writer import IndexWriter
from tests.clips import clip


@pytest.fixture
def indexed(run_pe, checkpoint: Path, image_files: list[Path]) -> Path:
    """The directory of the images and a clip, with an index."""
    directory = image_files[0].parent
    (directory / "clip.mp4").write_bytes(clip(60))
    run = run_pe("index", directory, "--model", checkpoint)
    assert run.status == 0, run.stderr
    assert "21 added, 0 moved, 0 deleted, 0 unchanged; " in run.stdout and run.stdout.endswith(" files/s)\n")
    return directory


def test_it_says_what_it_did_and_skipped(run_pe, indexed: Path) -> None:
    (indexed / "empty.jpg").touch()
    (indexed / "00.jpg").unlink()
    run = run_pe("index", indexed, "--json")
    again = run_pe("index", indexed, "--strict")
    assert again.status == 1 and again.stdout.endswith(" images and moments\n")  # no speed of nothing
    assert run.status == 0 and "empty.jpg: is empty" in run.stderr
    printed = json.loads(run.stdout)
    done = {"added": 0, "moved": 0, "deleted": 1, "unchanged": 20}
    assert done.items() <= printed["folders"][str(indexed)].items()
    assert printed["skipped"] == [{"path": str(indexed / "empty.jpg"), "reason": "is empty"}]


def test_search_in_the_current_directory(run_pe, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(indexed)
    run = run_pe("search", "2:dog", "-", "snow", "--top", "3")
    assert run.status == 0 and "“2:dog - snow”" in run.stdout and "note:" not in run.stderr


def test_an_unfinished_index_says_so_and_is_searched(run_pe, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "unfinished" not in run_pe("search", "dog", indexed).stderr

    def stop(*_: object) -> None:
        raise OutputError("the disk is full")

    (indexed / "00.jpg").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "finish", stop)
        assert run_pe("index", indexed).status == 2
    run = run_pe("search", "dog", indexed, "--json")
    (line,) = run.stderr.splitlines()
    message = "is unfinished, so files may be missing; finish it with: pe index"
    assert line.endswith(f"{indexed} {message} {indexed}")
    assert run.status == 0 and len(json.loads(run.stdout)["queries"][0]["hits"]) == 10
    run_pe("index", indexed)
    assert "unfinished" not in run_pe("search", "dog", indexed).stderr


def test_near_duplicates_are_shown_in_groups(run_pe, indexed: Path, tmp_path: Path) -> None:
    for copy, original in (("copy.jpg", "07.jpg"), ("again.jpg", "07.jpg"), ("twin.jpg", "03.jpg")):
        (indexed / copy).write_bytes((indexed / original).read_bytes())
    run_pe("index", indexed)
    arguments = ("near-duplicates", indexed, "--where", "kind = 'image'")
    groups = json.loads(run_pe(*arguments, "--json").stdout)["groups"]
    assert [{Path(row["path"]).name for row in group} for group in groups][:2] == [
        {"07.jpg", "copy.jpg", "again.jpg"},
        {"03.jpg", "twin.jpg"},
    ]
    page = tmp_path / "page" / "twice.html"
    page.parent.mkdir()
    run = run_pe(*arguments, "--top", "1", "--html", page)
    assert run.status == 0 and "again.jpg" in run.stdout and "twin.jpg" not in run.stdout
    assert "more groups" in run.stderr or len(groups) == 1
    assert page.read_text().count("<li class") == 3


def test_several_directories_are_searched_by_their_indexes(
    run_pe, indexed: Path, checkpoint: Path, tmp_path: Path, draw: Callable[[int], Image.Image]
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    draw(90).save(more / "new.jpg")
    arguments = ("search", "a cat", indexed, more, "--model", checkpoint, "--top", "100", "--json")
    run = run_pe(*arguments)
    assert f"pe index {more}" in run.stderr and f"index {indexed}" not in run.stderr
    everything = {hit["path"] for hit in json.loads(run.stdout)["queries"][0]["hits"]}
    run_pe("index", more, "--model", checkpoint)
    run = run_pe(*arguments)
    assert "pe index" not in run.stderr
    hits = json.loads(run.stdout)["queries"][0]["hits"]
    assert {hit["path"] for hit in hits} == everything and str(more / "new.jpg") in everything
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    (new,) = (hit for hit in hits if hit["path"] == str(more / "new.jpg"))
    for directories in ((indexed, more), (more, indexed)):
        run = run_pe("search", "--like", new["id"], *directories, "--json")
        assert json.loads(run.stdout)["queries"][0]["image"] == "new.jpg"
    run = run_pe("search", "--like", "no-such-id", indexed, more)
    assert run.status == 2 and "has no item no-such-id" in run.stderr


@pytest.mark.parametrize("command", [("search", "a cat", "DIR"), ("index", "DIR"), ("serve", "DIR")])
def test_another_model_is_refused_before_it_is_fetched(run_pe, indexed: Path, command, monkeypatch) -> None:
    monkeypatch.setattr("perception_encoder.models.checkpoints.find.fetch_weights", None)
    words = [word.replace("DIR", str(indexed)) for word in command]
    run = run_pe(*words, "--model", "PE-Core-L14-336")
    assert run.status == 2 and "model PE-Core-N16-128, not PE-Core-L14-336" in run.stderr


def test_a_text_needs_the_text_tower_alone(run_pe, indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    towers = []

    def spy(*arguments, **options):
        towers.append(arguments[1])
        return load_spec(*arguments, **options)

    monkeypatch.setattr("perception_encoder.inference.load.load_spec", spy)
    for query in (("2:dog", "-", "snow"), ("--image", indexed / "01.jpg")):
        assert run_pe("search", *query, indexed).status == 0
    assert towers == ["text", "all"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "a cat", "DIR", "--where", "colour = 'red'"), "condition \"colour = 'red'\" is invalid"),
        (("search", "--like", "nothing", "DIR"), "has no item nothing"),
        (("search", "a cat", "DIR", "--model", "builtin"), "pe index --rebuild"),
        (("search", "a cat", "DIR/01.jpg", "--where", "size > 3"), "create one with: pe index DIR"),
        (("search", "a cat", "DIR/01.jpg", "DIR/02.jpg", "--collapse"), "pe index DIR"),
        (("index", "DIR", "--every", "0.1"), "--rebuild --every 0.1"),
        (("index", "DIR/01.jpg"), "is not a directory"),
        (("index", "DIR", "DIR/gone"), "gone: no such file or directory"),
        (("index", "DIR", "--every", "0"), "--every"),
    ],
)
def test_errors_are_one_line(run_pe, indexed: Path, arguments: tuple[str, ...], message: str) -> None:
    run = run_pe(*(argument.replace("DIR", str(indexed)) for argument in arguments))
    expected, printed = (re.sub(r"[\s│]", "", text) for text in (message.replace("DIR", str(indexed)), run.stderr))
    assert run.status == 2 and expected in printed  # which may be wrapped in a box
    assert "Traceback" not in run.stderr
