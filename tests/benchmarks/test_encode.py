"""The encoders that are timed compute the same tower, and ratios are to the best peer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.decode import CLIPS
from benchmarks.encode import __main__ as encode
from benchmarks.encode import peers, rounds
from benchmarks.encode.case import Case, Contender, Kind, case_of
from benchmarks.result_pages import RESULTS, read_result
from benchmarks.speed_tables import beside_peers, speed_tables
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize

ROUNDINGS = {"float32": 24 * 64, "bfloat16": 24}
"""Of a value on its way through the two blocks: a dozen a block, of sums of up to 64 products, which are in float32."""
LEAST_COSINE = {name: 1 - (n * torch.finfo(getattr(torch, name)).eps) ** 2 / 2 for name, n in ROUNDINGS.items()}
"""If all roundings add up, whatever kernels the machine has: a relative error of e turns a vector by e at most."""
LEAST_COSINE["int8"] = 0.97


def case(kind: Kind) -> Case:
    vision = VisionConfig(image_size=32, patch_size=16, width=32, depth=2, heads=2, mlp_width=64, output_dim=24)
    text = TextConfig(context_length=20, width=32, depth=2, heads=2, output_dim=24, vocabulary=49_408)
    model = CLIP(vision, text, "tiny")
    initialize(model, torch.Generator().manual_seed(0))
    return case_of(model.eval(), kind, 1 if kind == "single" else 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["image", "text"])
def test_every_contender_agrees_with_its_weights_in_float32(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("openvino", "nncf", "onnxruntime", "onnxscript", "transformers", "skimage"):
        pytest.importorskip(library)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(peers, "torch_contenders", lambda _: [])  # they know published sizes only
    tiny = case(kind)
    found = list(encode.contenders(tiny))
    monkeypatch.setattr(encode, "check_drift", lambda _: None)  # tiny towers on a busy machine
    result = encode.measure(tiny, found, 0.0)
    assert {label.partition(",")[0] for label in result["speeds"]} == {
        "perception-encoder",
        "limit: bare products",
        "onnxruntime",
        peers.SAME_SIZE,
    }
    assert all(len(speeds) == rounds.MIN_ROUNDS and min(speeds) > 0 for speeds in result["speeds"].values())
    cosines = result["cosines"]
    assert "perception-encoder, OpenVINO, float32" in cosines
    for label, cosine in cosines.items():
        assert LEAST_COSINE[label.rpartition(", ")[2]] < cosine < 1 + 1e-6, label
    assert set(result["machine"]) == {"cpu", "cores", "features", "limited", "libraries"}


class Machine:
    """A clock, and contenders that take as long as it says: one of them gets slower from a round on."""

    def __init__(self, slower: float, since: int) -> None:
        self.slower, self.since = slower, since
        self.now, self.calls = 0.0, {"steady": 0, "drifting": 0}

    def perf_counter(self) -> float:
        return self.now

    def contender(self, name: str) -> Contender:
        def run() -> np.ndarray:
            self.calls[name] += 1
            late = name == "drifting" and self.calls[name] > self.since
            self.now += self.slower if late else 1.0
            return np.ones((1, 2))

        return Contender(name, "", "", run, None)


def run_on(machine: Machine, monkeypatch: pytest.MonkeyPatch, out: Path, seconds: float) -> None:
    monkeypatch.setattr(rounds, "time", machine)
    monkeypatch.setattr(encode, "case_of", lambda *_: case("text"))
    monkeypatch.setattr(encode, "create_model", lambda _: torch.nn.Identity())
    monkeypatch.setattr(encode, "contenders", lambda _: map(machine.contender, machine.calls))
    arguments = ["PE-Core-B16-224:text", "--seconds", str(seconds), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["encode", *arguments])
    encode.main()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seconds", "count"), [(0.0, 10), (23.0, 12)])
def test_each_contender_runs_ten_rounds_or_more_and_its_spread_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, count: int
) -> None:
    machine = Machine(slower=1.1, since=4)  # of which one call is not counted
    run_on(machine, monkeypatch, out := tmp_path / "out.json", seconds)
    result = json.loads(out.read_text())["towers"]["PE-Core-B16-224:text"]
    assert machine.calls == dict.fromkeys(machine.calls, count + 1)
    assert result["speeds"] == {"steady": [2.0] * count, "drifting": [2.0] * 3 + [1.818] * (count - 3)}
    assert result["summary"]["drifting"]["first and last third"] == [2.0, 1.818]
    assert result["summary"]["drifting"]["median"] == 1.818
    assert result["summary"]["steady"] == {"median": 2, "quartiles": [2, 2], "first and last third": [2, 2]}
    assert "quartiles 1.818 to " in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_drifts_is_refused_and_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (out := tmp_path / "out.json").write_text('{"towers": {}}')
    with pytest.raises(SystemExit) as exit_:
        run_on(Machine(slower=1.2, since=5), monkeypatch, out, 0.0)
    said = capsys.readouterr().err
    assert exit_.value.code == 1 and "more than 15%: drifting by 20%; stop" in said and "steady" not in said
    assert out.read_text() == '{"towers": {}}'


def test_towers_after_a_refused_one_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["PE-Core-B16-224:text", "PE-Core-S16-384:text"]
    run = []

    def pretend(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        run.append(command[3])
        return subprocess.CompletedProcess(command, int(command[3] == names[0]))

    monkeypatch.setattr(encode.subprocess, "run", pretend)
    monkeypatch.setattr(sys, "argv", ["encode", *names])
    with pytest.raises(SystemExit) as exit_:
        encode.main()
    assert exit_.value.code == 1 and run == names
    assert capsys.readouterr().err.endswith(f"run them again: {names[0]}\n")


def test_ratios_are_to_the_best_peer_of_the_same_model() -> None:
    speeds = {
        "perception-encoder, OpenVINO, int8": 40.0,
        "perception-encoder, OpenVINO, bfloat16": 24.0,
        "timm, compiled, bfloat16": 12.0,
        "onnxruntime, int8": 16.0,
        "CLIP of the same size, OpenVINO, int8": 39.0,
        "limit: bare products, OpenVINO, int8": 50.0,
    }
    tower = {"speeds": {label: [rate] * 12 for label, rate in speeds.items()}, "summary": {}}
    lesser = {"speeds": {label: [rate] * 10 for label, rate in speeds.items() if "int8" not in label}}
    head, *rows = beside_peers({"towers": {"PE-Core-B16-224:image": tower, "PE-Core-T16-384:text": lesser}})
    assert head[-2:] == ("ratios", "rounds")
    assert rows == [
        ("images, B16-224", "24", "40", "16", "onnxruntime, int8", "1.50, 2.50", "12"),
        ("texts, T16-384 †", "24", "–", "12", "timm", "2.00", "10"),
    ], "without a summary, it is of an earlier run"


def test_files_say_whether_decoding_limits_them() -> None:
    head, *rows = speed_tables(read_result)["Files"]
    limits = {str(row[0]): row[head.index("limited by")] for row in rows}
    assert limits["`pe index`, 12-megapixel JPEGs, B16-224"] == "encoding"
    assert limits["`pe index`, 1080p videos, B16-224"] == "decoding"


def test_a_frame_each_second_of_h264_takes_at_most_a_third_of_all_frames() -> None:
    head, *rows = speed_tables(read_result)["Videos"]
    shares = {str(row[0]): float(row[head.index("share")]) for row in rows}
    assert list(shares) == list(CLIPS) and shares["H.264, 1080p30"] <= 1 / 3


def test_the_page_opens_with_one_short_table() -> None:
    text = (RESULTS / "speed.md").read_text(encoding="utf-8")
    assert len(speed_tables(read_result)[""]) <= 1 + 20
    assert sum(any(map(str.isalnum, word)) for word in text.split()) <= 900
