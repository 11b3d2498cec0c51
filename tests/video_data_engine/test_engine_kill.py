"""An engine that is killed at any moment goes on where it stopped: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from perception_encoder.video_data_engine.run import run_engine
from tests import processes
from tests.video_data_engine.conftest import ECHOES, QUICK


def start_run(videos: Path, out: Path) -> None:
    run_engine([videos], out, ECHOES, QUICK)


def lines(out: Path) -> list[dict[str, object]]:
    journal = out / "journal.jsonl"
    whole = [line for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def test_killed_runs_end_with_every_result_once(add_video, log: Path, tmp_path: Path) -> None:
    for number in range(6):
        add_video(f"{number}", title=f"title {number}")
    videos, out = tmp_path / "videos", tmp_path / "out"
    out.mkdir()
    (out / "journal.jsonl").touch()
    environment = {"ENGINE_LOG": str(log), "ENGINE_PAUSE": "0.15"}
    for _ in range(3):
        before = len(lines(out))
        run = processes.start(start_run, videos, out, log=tmp_path / "output", environment=environment)
        while len(lines(out)) < before + 6:
            assert run.running(), run.output()
            time.sleep(0.02)
        run.kill()
    stored = len(lines(out))
    assert stored < 30
    report = run_engine([videos], out, ECHOES, QUICK)
    done = Counter((line["key"], line["stage"]) for line in lines(out))
    assert len(done) == 30 and set(done.values()) == {1}
    rows = pq.read_table(out / "captions.parquet").to_pylist()
    assert sorted(row["summary"] for row in rows) == [f"title {number}: frames 0 25 50" for number in range(6)]
    assert (report.clips, sum(report.done.values())) == (6, 30 - stored)
