"""Metadata of JSON files, containers and tables, good and bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.video_data_engine.videos.probe import LONGEST, read_metadata_fields


def test_a_file_comes_before_the_container_and_the_table(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"title": "Кот\n на\u0000 столе", "tags": ["cat", "table"], "categories": ["Pets"]}))
    tags = {"TITLE": "My Movie 6", "comment": "made by hand"}
    fields, problems = read_metadata_fields(path, tags, "a cat")
    assert fields == {
        "title": "Кот на столе",
        "description": "made by hand",
        "keywords": "cat, table",
        "category": "Pets",
    }
    assert problems == []
    assert read_metadata_fields(None, {}, "a cat")[0] == {"description": "a cat"}


@pytest.mark.parametrize("title", ["می\u200cخواهم", "क्\u200dष", "👩\u200d🍳 ขนมปัง", "图书馆", "عنوان فيديو"])
def test_words_of_all_scripts_stay_whole(title: str) -> None:
    assert read_metadata_fields(None, {"title": f"{title}\u202e"}, None) == ({"title": title}, [])


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"null", b"[" * 100_000])
def test_a_bad_file_is_noted_and_the_rest_is_used(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    fields, (problem,) = read_metadata_fields(path, {"title": "A cup"}, None)
    assert fields == {"title": "A cup"} and problem.startswith("its JSON file cannot be read")


def test_fields_of_other_types_are_ignored_and_long_ones_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"title": 7, "video_title": "", "description": "x" * 5000, "keywords": [1, 2]}))
    fields, _ = read_metadata_fields(path, {}, None)
    assert fields == {"description": "x" * (LONGEST - 1) + "…"}
