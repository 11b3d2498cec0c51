"""An engine that is killed, or stopped by a full disk, its endpoint or another engine, loses and doubles nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from perception_encoder.errors import EndpointError, OutputError
from perception_encoder.video_data_engine.journal import STAGES, Journal
from perception_encoder.video_data_engine.run import caption_videos
from tests import processes
from tests.video_data_engine import servers
from tests.video_data_engine.conftest import ECHOES, QUICK
from tests.video_data_engine.test_run import rows


def start_run(videos: Path, out: Path) -> None:
    os.environ["ENGINE_PID"] = str(os.getpid())
    caption_videos([videos], out, ECHOES, QUICK)


def lines(out: Path) -> list[dict[str, object]]:
    journal = out / "journal.jsonl"
    whole = [line for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def test_killed_runs_end_with_every_result_once(add_video, log: Path, tmp_path: Path) -> None:
    for number in range(6):
        add_video(f"{number}", title=f"title {number}")
    videos, out = tmp_path / "videos", tmp_path / "out"
    stored = 0
    for _ in range(3):
        environment = {"ENGINE_LOG": str(log), "ENGINE_KILL": "6"}
        run = processes.start(start_run, videos, out, log=tmp_path / "output", environment=environment)
        assert run.statuses() == [-signal.SIGKILL], run.output()
        assert stored < len(lines(out)) < 30
        stored = len(lines(out))
    report = caption_videos([videos], out, ECHOES, QUICK)
    done = Counter((line["key"], line["stage"]) for line in lines(out))
    assert len(done) == 30 and set(done.values()) == {1}
    rows = pq.read_table(out / "captions.parquet").to_pylist()
    assert sorted(row["summary"] for row in rows) == [f"title {number}: frames 0 25 50" for number in range(6)]
    assert (report.clips, sum(report.done.values())) == (6, 30 - stored)


DISK = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a mebibyte; skips the test where none may be mounted."""
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk may be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def stored(out: Path) -> list[dict[str, object]]:
    return lines(out) if (out / "journal.jsonl").exists() else []


def assert_each_once(out: Path, videos: int) -> None:
    """Every stage of every video has one result."""
    count = Counter((line["key"], line["stage"]) for line in stored(out))
    assert len(count) == videos * len(STAGES) and set(count.values()) == {1}


def test_a_full_disk_stops_the_run_until_there_is_room(add_video, tmp_path: Path, small_disk: Path) -> None:
    for number in range(6):
        add_video(f"{number}", title=f"title {number}")
    out, filler, before = small_disk / "out", small_disk / "filler", list[dict[str, object]]()
    counts: list[int] = []
    for room in (0, 50_000, 90_000):
        used = sum(path.stat().st_blocks * 512 for path in out.rglob("*") if path.is_file()) if out.exists() else 0
        filler.unlink(missing_ok=True)
        filler.write_bytes(bytes(DISK - used - room))
        with pytest.raises(OutputError, match="could not be written: No space left"):
            caption_videos([tmp_path / "videos"], out, ECHOES, QUICK)
        assert stored(out)[: len(before)] == before
        before = stored(out)
        counts.append(len(before))
    assert counts[0] == 0 < counts[1] < 6 * len(STAGES) == counts[2]  # in the end only the Parquet file does not fit
    filler.unlink()
    report = caption_videos([tmp_path / "videos"], out, ECHOES, QUICK)
    assert report.clips == 6 and stored(out)[: len(before)] == before
    assert_each_once(out, 6)
    assert rows(out).keys() == {f"title {number}" for number in range(6)}


def test_a_run_that_its_endpoint_stopped_goes_on(add_video, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="openai is not installed; install the extra engine")
    for name in "abc":
        add_video(name)
    out, work = tmp_path / "out", replace(QUICK, batch_size=1, tries=2, failures_in_a_row=2)
    failures = servers.failing(500), servers.garbage, servers.half, servers.failing(503)  # two for each of two clips
    with servers.endpoint(*failures, servers.well) as (address, requests):
        config = replace(ECHOES, llm=f"{address}#any")
        with pytest.raises(EndpointError, match="summary failed for 2 clips in a row"):
            caption_videos([tmp_path / "videos"], out, config, work)
        failed = [line for line in stored(out) if "reason" in line]
        report = caption_videos([tmp_path / "videos"], out, config, work)
    assert [line["cause"] for line in failed] == ["service"]
    assert (report.clips, report.quarantine, len(requests)) == (3, [], 7)
    results = [line for line in stored(out) if "value" in line]
    assert len(results) == len({(line["key"], line["stage"]) for line in results}) == 3 * len(STAGES)
    assert Journal(out).models["summary"]["address"] == address
