"""The engine on a Ray cluster makes what it makes in processes, whatever is killed: a worker, a machine, the driver."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from perception_encoder.ray_cluster import Worker, WorkLog
from perception_encoder.video_data_engine.cluster import StageWork
from perception_encoder.video_data_engine.config import WorkConfig
from perception_encoder.video_data_engine.journal import ClipRecord, StageFailure, StageResult
from perception_encoder.video_data_engine.run import caption_videos
from perception_encoder.video_data_engine.stages import DecodingStage
from tests import processes
from tests.clips import clip
from tests.ray_nodes import end, needs_proc, needs_ray, set_environment, two_nodes, wait_for
from tests.ray_nodes import processes as processes_named
from tests.video_data_engine.conftest import ECHOES, QUICK
from tests.video_data_engine.models import notes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # Ray's own


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch)


@needs_ray
@needs_proc
def test_a_killed_worker_loses_and_doubles_nothing(add_video, log: Path, tmp_path: Path) -> None:
    titles = ["First", "broken", "deadly", *(f"title {number}" for number in range(3))]
    for title in titles:
        add_video(title, title=title)
    add_video("bad", b"not a video" * 9)
    add_video("long", clip(120), title="long")
    killed: list[int] = []
    done = threading.Event()

    def kill_one() -> None:
        while not done.wait(0.05):
            if notes("summary") and (pids := processes_named("StageActor")):
                killed.append(pids[-1])  # of the last stage; Ray names them so
                end(pids[-1])
                return

    killer = threading.Thread(target=kill_one)
    killer.start()
    out, work = tmp_path / "out", WorkConfig(workers=1, batch_size=2, tries=1)
    config = replace(ECHOES, longest=3.0, shortest=1.0)  # which cuts the long one into two clips
    try:
        report = caption_videos([tmp_path / "videos"], out, config, work, ray="local")
    finally:
        done.set()
        killer.join()
    assert killed
    rows = pq.read_table(out / "captions.parquet").to_pylist()
    whole = [f"{title}: frames 0 25 50" for title in titles if title not in ("broken", "deadly")]
    assert sorted(row["summary"] for row in rows) == sorted([*whole, "long: frames 0 25 50", "long: frames 60 85 110"])
    clips = sorted((row["start"], row["end"]) for row in rows if row["title"] == "long")
    assert clips == [(0.0, 2.4), (2.4, 4.8)]
    assert {Path(failure.source).stem for failure in report.quarantine} == {"bad", "broken", "deadly"}
    lines = (out / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 5 * 4 + 2 * 5 + 1 + 2 * 4  # one outcome for each stage of each video and clip
    assert caption_videos([tmp_path / "videos"], out, config, QUICK).skipped == len(titles) + 2


def start_run(videos: Path, out: Path, address: str) -> None:
    caption_videos([videos], out, ECHOES, WorkConfig(workers=1, batch_size=2), ray=address)


def lines(out: Path) -> list[dict[str, Any]]:
    journal = out / "journal.jsonl"
    whole = journal.read_text().rpartition("\n")[0] if journal.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


@needs_ray
@needs_proc
@pytest.mark.timeout(600)  # a minute on two idle cores
def test_what_a_stage_did_is_kept_when_a_machine_and_then_the_driver_are_killed(
    add_video, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, hold = 12, tmp_path / "hold"
    for number in range(count):
        add_video(f"{number}", title=f"title {number}")
    hold.touch()
    monkeypatch.setenv("ENGINE_HOLD", str(hold))
    monkeypatch.setenv("ENGINE_PAUSE", "0.5")  # before each summary
    videos, out = tmp_path / "videos", tmp_path / "out"
    with two_nodes() as nodes:
        driver = processes.start(start_run, videos, out, nodes.address, log=tmp_path / "driver")
        (pid,) = (process.pid for process in driver.processes)
        wait_for(lambda: len(lines(out)) == 4 * count or not driver.running())  # of all stages but the last
        connected = processes_named("spawn_main", pid)
        nodes.lose_one()
        wait_for(lambda: set(processes_named("spawn_main", pid)) - {*connected} or not driver.running())
        hold.unlink()
        wait_for(lambda: len(lines(out)) >= 4 * count + 2 or not driver.running())
        driver.kill()
        stored = lines(out)
        report = caption_videos([videos], out, ECHOES, QUICK, ray=nodes.address)
    done = Counter((line["key"], line["stage"]) for line in lines(out))
    assert len(done) == 5 * count and set(done.values()) == {1} and lines(out)[: len(stored)] == stored
    assert sum(report.done.values()) == 5 * count - len(stored) and len(notes("seen")) == 3 * count
    rows = pq.read_table(out / "captions.parquet").to_pylist()
    assert sorted(row["summary"] for row in rows) == sorted(f"title {n}: frames 0 25 50" for n in range(count))


def probe(record: ClipRecord) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    if "deadly" in record.key:
        raise SystemExit
    return ({"text": str(1 // 0)} if "broken" in record.key else {}), ()


def test_only_the_record_that_ends_workers_or_raises_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those that are done before it in each attempt."""
    stage, log = DecodingStage(name="probe", function=probe, seconds=60), WorkLog()
    records = [ClipRecord(key=key, item=SimpleNamespace(name=key)) for key in ("a", "broken", "deadly", "b")]
    remote = SimpleNamespace(begin=SimpleNamespace(remote=log.begin), end=SimpleNamespace(remote=log.end))
    monkeypatch.setattr("ray.get", lambda answer: answer)
    for _ in range(9):
        try:
            results = Worker(StageWork(stage, {}, 1), remote, "").results(records, [one.key for one in records])
            break
        except SystemExit:
            continue
    kinds = [type(outcome) for outcome, _ in results]
    assert kinds == [StageResult, StageFailure, StageFailure, StageResult]
    assert ["ZeroDivisionError" in results[1][0].reason, "ended its worker" in results[2][0].reason] == [True, True]
