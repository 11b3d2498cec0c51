"""The benchmark of a card, tried on the CPU."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.device import Device, TimeLimit, time_limit
from benchmarks.gpu.jobs import JOBS, QUICK, SETTINGS, Job
from benchmarks.gpu_tables import gpu_tables

CPU = Device(torch.device("cpu"))
JOB = Job("PE-Core-B16-224", "text", 4)


def contenders(job: Job) -> list[str]:
    return [f"{who}, {setting}" for who, settings in SETTINGS[job.kind].items() for setting in settings]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("job", QUICK, ids=lambda job: job.name)
def test_every_contender_runs_and_computes_what_its_library_does(job: Job, tmp_path: Path) -> None:
    for library in ("timm", "open_clip", "transformers"):
        pytest.importorskip(library)
    gpu.main(["--device", "cpu", "--quick", job.name, "--out", str(out := tmp_path / "gpu.json")])
    result = json.loads(out.read_text())["jobs"][job.name]
    assert result["skipped"] == {} and list(result["speeds"]) == contenders(job)
    assert all(len(rates) == 1 and rates[0] > 0 for rates in result["speeds"].values())
    assert len(result["cosines"]) == (3 if job.kind in ("image", "text") else 0)
    assert all(cosine > 0.999 for cosine in result["cosines"].values())


def test_without_a_card_it_says_what_it_would_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main([])
    first, *lines = capsys.readouterr().out.splitlines()
    assert "no CUDA card" in first and [line.partition(", ")[0] for line in lines] == [job.name for job in JOBS]


class Pretended(Device):
    """A device with memory, on which all calls take a second; the clock of a drifting one slows down."""

    def __init__(self, slows: bool = False) -> None:
        super().__init__(torch.device("cpu"))
        self.slows, self.calls, self.held = slows, 0, 1000

    def seconds(self, run: object) -> float:
        self.calls += 1
        return 1.0 + (self.calls > 15) if self.slows else 1.0

    def allocated(self) -> int:
        return self.held

    def added(self, run: object) -> int:
        return 7


def build(self: Job, who: str, device: Pretended) -> dict[str, object]:
    """A library whose compiler needs too much memory and which then hangs, and one that holds 500 bytes."""
    if who == "open_clip":

        def full() -> None:
            raise torch.OutOfMemoryError("CUDA out of memory\nof 80 GiB")

        return {"eager": full, "compiled": lambda: time.sleep(30)}
    device.held += 500
    return {setting: lambda: torch.ones(1, 2) for setting in SETTINGS[self.kind][who]}


def test_what_does_not_fit_or_hangs_is_skipped_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "build", build)
    result = gpu.measure(JOB, Pretended(), 0.2, 10)
    ours = contenders(JOB)[:3]
    assert result["speeds"] == {label: [4.0] * 10 for label in ours} and result["memory"] == dict.fromkeys(ours, 507)
    assert result["skipped"] == {
        "open_clip, eager": "the card's memory is too small",
        "open_clip, compiled": "TimeLimit: it took more than 0 s",
    }


def test_a_run_that_drifts_has_no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "build", build)
    result = gpu.measure(JOB, Pretended(slows=True), 0.2, 10)
    assert result["speeds"] == {} and "differ by more than 15%" in result["skipped"]["all"]


def test_jobs_after_the_end_of_the_time_are_said_and_results_stay(tmp_path: Path) -> None:
    (out := tmp_path / "gpu.json").write_text('{"jobs": {"earlier": 1}, "skipped": {}}')
    gpu.run_jobs([JOB], CPU, SimpleNamespace(quick=True, minutes=0, limit=1), out)  # type: ignore[arg-type]
    assert json.loads(out.read_text()) == {
        "jobs": {"earlier": 1},
        "skipped": {JOB.name: "there was no time left of 0 minutes"},
    }


def test_a_time_limit_stops_the_block_only() -> None:
    with pytest.raises(TimeLimit, match="more than 0 s"), time_limit(0.05):
        time.sleep(30)
    with time_limit(60):
        pass


def test_the_tables_compare_with_the_best_peer_and_list_what_was_skipped() -> None:
    machine = {"card": "A card"}
    image = {
        "count": 2,
        "machine": machine,
        "speeds": {
            "perception-encoder, by default": [80.0, 100.0, 90.0],
            "perception-encoder, compiled": [120.0] * 3,
            "timm, eager": [60.0] * 3,
            "timm, compiled": [100.0] * 3,
        },
        "memory": {"perception-encoder, compiled": 3_000_000_000, "timm, compiled": None},
        "skipped": {"perception-encoder, eager": "why"},
    }
    steps = {**image, "speeds": {"perception-encoder, by default": [10.0] * 3}, "memory": {}, "skipped": {}}
    tables = gpu_tables(
        {
            "jobs": {"PE-Core-B16-224:image": image, "PE-Core-B16-224:train": steps},
            "skipped": {"PE-Core-L14-336:text": "no time"},
        }
    )
    ours, peer = "120 (compiled)", "100 (timm, compiled)"
    assert tables["Images"][3] == ("B16-224", "A card", "90", ours, peer, "1.20", "3.0 GB, –")
    assert tables["Images"][1] == ("T16-384", *["–"] * 6)
    assert tables["Training"][1] == ("B16-224, 2 a step", "A card", "5", "5 (by default)", "–", "–", "–, –")
    assert tables["Skipped"][1:] == [
        ("PE-Core-L14-336:text", "all", "no time"),
        ("PE-Core-B16-224:image", "perception-encoder, eager", "why"),
    ]
