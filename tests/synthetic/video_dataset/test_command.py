"""`python -m synthetic.video_dataset`: a dataset that `pe video-dataset` reads, in a directory of one process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import pytest

from tests import processes

T = TypeVar("T")
OPTIONS = ("--count", "10", "--size", "32", "--frames", "16", "--jobs", "1")


@pytest.mark.skipif(find_spec("pybullet") is None, reason="pybullet is not installed")
def test_of_two_at_once_one_builds_a_dataset(run_module, run_pe, tmp_path: Path) -> None:
    """Before, both ended well, and the later one replaced the tars of the other."""
    out = tmp_path / "clips"
    first = processes.start(build_after_the_other, out, log=tmp_path / "first")
    while not (tmp_path / "begun").exists():
        assert first.running(), first.output()
        time.sleep(0.01)
    try:
        refused = run_module("video_dataset", "-o", out, *OPTIONS)
    finally:
        (tmp_path / "ended").touch()
    message = f"another process is writing {out}; wait for it, or choose another directory"
    assert (refused.status, refused.stdout, refused.stderr) == (2, "", f"error: {message}\n")
    assert first.statuses() == [0], first.output()
    assert "10 videos, 8 with refined captions (simulated)" in " ".join(first.output().split())
    assert sorted(path.name for path in out.iterdir()) == ["ATTRIBUTION.txt", "README.md", "extended", "test", "train"]
    assert "all\t10\t8\t8\t2.0±0.0" in run_pe("video-dataset", "stats", out).stdout
    again = run_module("video_dataset", "-o", out, *OPTIONS)
    assert again.status == 2 and "is not empty" in again.stderr


def build_after_the_other(out: Path) -> None:
    """Run the command, whose first video is not made until the other process has ended."""
    from synthetic.video_dataset import __main__ as program  # here, as `run_module` runs it anew

    def track(videos: Iterable[T], *_: object) -> Iterator[T]:
        (out.parent / "begun").touch()
        while not (out.parent / "ended").exists():
            time.sleep(0.01)
        yield from videos

    program.track = track  # type: ignore[assignment]
    program.run_command("synthetic.video_dataset", program.build, ["-o", str(out), *OPTIONS])
