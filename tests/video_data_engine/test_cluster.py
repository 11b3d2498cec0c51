"""The engine on a local Ray cluster makes what it makes in processes, with a worker killed on the way."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from perception_encoder.video_data_engine.config import WorkConfig
from perception_encoder.video_data_engine.run import caption_videos
from tests.clips import clip
from tests.conftest import ROOT
from tests.video_data_engine.conftest import ECHOES, QUICK
from tests.video_data_engine.models import notes

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed; install the extra cluster"
)
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What Ray's processes start with."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    return


def descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it ended meanwhile
            for child in map(int, task.read_text().split()):
                yield child
                yield from descendants(child)


def summarizers() -> list[int]:
    """The worker processes of the last stage; Ray names them so."""
    pids = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            pids += [pid] if b"ray::" in command and b"StageActor" in command else []
    return pids


@needs_ray
@needs_proc
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # Ray's own
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
            if notes("summary") and (pids := summarizers()):
                killed.append(pids[-1])
                os.kill(pids[-1], signal.SIGKILL)
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
