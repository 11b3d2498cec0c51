"""`pe.open_index`, and the directories that `pe search` searches by an index, their own or one around them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.errors import ConfigError, MediaNotFoundError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from tests.search.indexes import assert_same_ranking, hits, printed_command


def test_a_query_of_a_text_and_an_image_is_encoded_by_both_towers(photos: Path, checkpoint: Path) -> None:
    pe.open_index(photos, checkpoint).update()
    for query in ({"a cat": 1, photos / "00.jpg": 2}, {photos / "00.jpg": 2, "a cat": 1}):
        (both,) = pe.open_index(photos, checkpoint).search(query, top=30).by_query  # which loads no more than it needs
        assert len(both) == 19


def test_an_index_is_made_searched_and_updated(photos: Path, checkpoint: Path, encoder: Encoder) -> None:
    index = pe.open_index(photos, checkpoint, precision="float32")
    assert not index.exists
    with pytest.raises(SearchIndexError, match="has no index; create one with: pe index"):
        index.search("a cat")
    (photos / "bad.jpg").write_bytes(b"no image")
    report = index.update()
    assert (report.added, report.deleted, report.rows, len(index)) == (20, 0, 20, 20)
    assert [error.source for error in report.skipped] == [str(photos / "bad.jpg")]
    result = index.search("a cat", top=3)
    assert [hit.score for hit in result] == sorted((hit.score for hit in result), reverse=True)
    assert len(result) == 3 and result[0].file is not None and result[0].file.parent in (photos, photos / "2024's/may")
    assert_same_ranking(pe.search_files("a cat", photos, checkpoint, top=3, precision="float32"), result)
    (photos / "00.jpg").unlink()
    assert index.update().deleted == 1 and len(index) == 19
    with_encoder = pe.open_index(photos, encoder)
    assert_same_ranking(with_encoder.search("a cat", top=5), index.search("a cat", top=5))
    loaded = pe.load(checkpoint)
    assert pe.open_index(photos, loaded).update(rebuild=True).source == str(checkpoint)
    assert len(pe.open_index(photos).search("a cat")) == 10


def test_queries_are_texts_paths_images_hits_and_weighted_terms(photos: Path, checkpoint: Path) -> None:
    index, path = pe.open_index(photos, checkpoint, precision="float32"), photos / "00.jpg"
    index.update()
    (copy := photos / "copy.png").write_bytes(path.read_bytes())
    with Image.open(path) as image:
        image.load()
    by_path, by_name, by_image, by_hit = index.search([path, str(path), image, index.search(image)[0]]).by_query
    assert by_path == by_name and path not in [hit.file for hit in by_path]
    assert by_image[0].file == path and by_image[0].score == pytest.approx(1, abs=2e-2)
    assert_same_ranking(by_hit, by_path)  # the query's vector is read, or computed
    text, combined = index.search(["a cat", {"a cat": 2, path: 1}], top=5).by_query
    assert [hit.score for hit in combined] != [hit.score for hit in text]
    away, near = index.search({"a cat": -1}, top=30), index.search("a cat", top=30)
    assert_same_ranking([replace(hit, score=-hit.score) for hit in away][::-1], near)
    assert copy not in {hit.file for hit in away}  # it is not indexed yet
    for query, error in (("", ConfigError), ({}, ConfigError), (photos / "none.jpg", MediaNotFoundError)):
        with pytest.raises(error):
            index.search(query)


def test_a_subfolder_is_searched_by_the_index_around_it(
    run_pe, photos: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_pe("index", photos, "--model", checkpoint).status == 0
    below = photos / "2024's"
    arguments = ("search", "a cat", "--top", "20", "--json")
    everything = {str(path) for path in photos.rglob("*.jpg")}
    monkeypatch.setattr("perception_encoder.search.index.encode_media", None)
    assert hits(run_pe(*arguments, photos)) == everything
    inside = {path for path in everything if "2024" in path}
    assert len(inside) == 8 and hits(run_pe(*arguments, below)) == hits(run_pe(*arguments, below / "may")) == inside
    one = hits(run_pe(*arguments, below, "--where", "path LIKE '%/15.jpg' OR path LIKE '00%'"))
    assert one == {str(below / "may" / "15.jpg")}
    monkeypatch.chdir(below)
    assert {Path(path).resolve() for path in hits(run_pe(*arguments))} == {Path(path).resolve() for path in inside}
    groups = json.loads(run_pe("near-duplicates", below, "--json").stdout)["groups"]
    assert {str(row["path"]) for group in groups for row in group} <= inside


def test_a_link_to_an_indexed_directory_is_searched_by_the_index(
    run_pe, photos: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "0link").symlink_to("2024's/may")
    assert run_pe("index", photos, "--model", checkpoint).status == 0
    monkeypatch.setattr("perception_encoder.search.index.encode_media", None)
    may = hits(run_pe("search", "a cat", photos / "2024's" / "may", "--json"))
    assert len(may) == 8 and hits(run_pe("search", "a cat", photos / "0link", "--json")) == may
    assert run_pe("index", photos, "--exclude", "may/").status == 0
    everything = hits(run_pe("search", "a cat", photos, "--top", "50", "--json"))
    assert len(everything) == 12 and not everything & may


def test_what_an_index_does_not_know_is_encoded(run_pe, photos: Path, checkpoint: Path) -> None:
    assert run_pe("index", photos, "--model", checkpoint).status == 0
    hidden = photos / ".hidden"
    hidden.mkdir()
    (photos / "01.jpg").rename(hidden / "01.jpg")
    run = run_pe("search", "a cat", hidden, "--model", checkpoint, "--json")
    assert hits(run) == {str(hidden / "01.jpg")}


def test_overlapping_folders_give_each_row_once(run_pe, photos: Path, checkpoint: Path) -> None:
    assert run_pe("index", photos, "--model", checkpoint).status == 0
    below = photos / "2024's"
    one = hits(run_pe("search", "a cat", photos, "--top", "50", "--json"))
    for folders in ((photos, below), (below, photos), (photos, photos), (below / "may", photos / ".", below)):
        found = json.loads(run_pe("search", "a cat", *folders, "--top", "50", "--json").stdout)["queries"][0]["hits"]
        assert len(found) == len({hit["path"] for hit in found}) == len(one) == 20
        assert json.loads(run_pe("near-duplicates", *folders, "--json").stdout)["groups"] == []
    assert len(hits(run_pe("search", "a cat", below, below / "may", "--index", photos, "--json"))) == 8


def test_an_index_is_not_asked_for_single_files(run_pe, photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert run_pe("index", photos, "--index", home, "--model", checkpoint).status == 0
    for what in (photos / "00.jpg", f"{photos}/*.jpg"):
        run = run_pe("search", "a cat", what, "--index", home)
        assert run.status == 2 and f"{what} is not a directory; the index covers {photos}" in run.stderr
    shutil.rmtree(photos)  # such as a disk that is away
    assert len(hits(run_pe("search", "a cat", "--index", home, "--top", "20", "--json"))) == 20


def test_a_directory_without_an_index_is_told_how_to_get_one(run_pe, photos: Path, tmp_path: Path) -> None:
    home = tmp_path / "nowhere"
    run = run_pe("search", "a cat", photos, "--index", home)
    command = f"pe index {photos} --index {home}"
    assert run.status == 2 and f"{photos} has no index; create one with: {command}\n" in run.stderr


def test_another_model_is_refused_with_the_command_that_rebuilds(run_pe, photos: Path, checkpoint: Path) -> None:
    assert run_pe("index", photos, "--model", checkpoint).status == 0
    for folder in (photos, photos / "2024's"):
        command = printed_command(run_pe("search", "a cat", folder, "--model", "builtin").stderr)
        assert command == ["index", "--rebuild", "--model", "builtin", str(photos)]
    copy = checkpoint.with_name("copy of it.safetensors")
    copy.write_bytes(checkpoint.read_bytes())
    assert len(hits(run_pe("search", "a cat", photos / "2024's", "--model", copy, "--json"))) == 8
    assert run_pe(*command).status == 0 and run_pe("search", "a cat", photos, "--model", "builtin").status == 0
    run = run_pe("search", "a cat", photos, "--model", "PE-Core-L14-336")
    assert printed_command(run.stderr) == ["index", "--rebuild", "--model", "PE-Core-L14-336", str(photos)]


def test_the_model_of_the_first_index_is_in_the_command_that_rebuilds_the_second(
    photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, other := tmp_path / "others")
    pe.open_index(photos, checkpoint).update()
    pe.open_index(other, "builtin").update()
    both = pe.open_index([photos, other])
    export = partial(both.export_vectors, tmp_path / "vectors.parquet")
    for fail in (partial(both.search, "a cat"), both.near_duplicates, export):
        with pytest.raises(SearchIndexError) as error:
            fail()
        assert printed_command(str(error.value)) == ["index", "--rebuild", "--model", str(checkpoint), str(other)]


def test_files_that_move_are_not_deleted_and_unreadable_ones_are_listed_once(
    run_pe, photos: Path, checkpoint: Path
) -> None:
    for name in ("bad.jpg", "worse.jpg"):
        (photos / name).write_bytes(b"no image")
    assert run_pe("index", photos, "--model", checkpoint).stderr.count("skipped /") == 2
    (photos / "00.jpg").rename(photos / "moved.jpg")
    (photos / "01.jpg").unlink()
    (photos / "new.jpg").write_bytes(b"no image either")
    run = run_pe("index", photos)
    assert "0 added, 1 moved, 1 deleted, 18 unchanged" in run.stdout
    warnings = [line for line in run.stderr.splitlines() if "skipped" in line]
    assert len(warnings) == 2 and f"skipped {photos / 'new.jpg'}: " in warnings[0]
    assert "3 of 22 inputs skipped, 2 of them as in the last run" in warnings[1]
    assert len(json.loads(run_pe("index", photos, "--json").stdout)["skipped"]) == 3
    (photos / "bad.jpg").unlink()
    assert "2 of 21 inputs skipped, 2 of them as in the last run" in run_pe("index", photos).stderr


def test_a_search_says_whether_an_update_is_running_or_was_stopped(run_pe, photos: Path, checkpoint: Path) -> None:
    index, said = pe.open_index(photos, checkpoint), []
    index.update()
    (photos / "new.png").write_bytes((photos / "00.jpg").read_bytes() + b"more")

    def stop(items, description, total):
        said.append(run_pe("search", "a cat", photos).stderr)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.update(progress=stop)
    assert f"the index of {photos} is being updated, so files may be missing\n" in said[0]
    assert "finish it" not in said[0]
    stopped = run_pe("search", "a cat", photos).stderr
    assert f"is unfinished, so files may be missing; finish it with: pe index {photos}" in stopped
