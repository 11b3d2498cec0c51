"""`pe video-dataset stats`: two tables, or JSON."""

from __future__ import annotations

import json
from pathlib import Path

from tests.video_dataset.clips import fields, write_dataset


def test_tables_and_json(run_pe, tmp_path: Path) -> None:
    videos = [("a", fields("one two", human_caption="one two three")), ("b", fields("one two three four"))]
    data = write_dataset(tmp_path, {"test": [videos]})
    run = run_pe("video-dataset", "stats", data)
    rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert rows[1] == ["test", "2", "1", "0", "2.0±0.0", "0.0", "3.0±1.0", "3.0±0.0"], run.stderr
    assert rows[-2:] == [["category (test)", "refined", "words"], ["Water Scenes", "1", "3.0"]]
    statistics = json.loads(run_pe("video-dataset", "stats", data, "--json").stdout)
    assert statistics["splits"]["all"]["videos"] == 2


def test_categories_are_those_of_the_benchmark(run_pe, tmp_path: Path) -> None:
    trained = [("a", fields("one", human_caption="one two three", category_name="Animals"))]
    data = write_dataset(tmp_path, {"train": [trained], "test": [[("b", fields("one", human_caption="one two"))]]})
    rows = run_pe("video-dataset", "stats", data).stdout.splitlines()
    assert rows[-2:] == ["category (test)\trefined\twords", "Water Scenes\t1\t2.0"]  # without those of train
    assert run_pe("video-dataset", "stats", data, "--split", "train").stdout.splitlines()[-1] == "Animals\t1\t3.0"
    assert len(run_pe("video-dataset", "stats", data, "--split", "all").stdout.splitlines()) == len(rows) + 1
    assert "it has train, test, all" in run_pe("video-dataset", "stats", data, "--split", "val").stderr


def test_without_a_benchmark_the_categories_are_of_all_videos(run_pe, tmp_path: Path) -> None:
    data = write_dataset(tmp_path, {"train": [[("a", fields("one", human_caption="one two three"))]]})
    assert run_pe("video-dataset", "stats", data).stdout.splitlines()[-2].startswith("category (all)")
