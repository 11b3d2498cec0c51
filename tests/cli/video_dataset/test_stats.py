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
    assert rows[-1] == ["Water Scenes", "1", "3.0"]
    statistics = json.loads(run_pe("video-dataset", "stats", data, "--json").stdout)
    assert statistics["splits"]["all"]["videos"] == 2
