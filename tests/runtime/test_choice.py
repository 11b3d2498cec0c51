"""The runtime and the precision: forced, measured, or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError, MissingExtraError, OutputError
from perception_encoder.runtime import choice
from perception_encoder.runtime.choice import fastest, measured_speeds, runtime_for
from perception_encoder.runtime.machine import check_openvino
from perception_encoder.runtime.openvino_towers import CompiledTowers, FallbackWarning

SPEEDS = {"torch float32": 5.0, "torch bfloat16": 15.0, "openvino float32": 11.0, "openvino bfloat16": 21.0}
INT8 = {"openvino float32": 11.0, "openvino bfloat16": 21.0, "openvino int8": 35.0}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without a GPU on which OpenVINO is installed, with the speeds above."""
    monkeypatch.delenv("PE_RUNTIME", raising=False)
    monkeypatch.delenv("PE_DTYPE", raising=False)
    monkeypatch.setattr(choice, "check_openvino", lambda: None)
    monkeypatch.setattr(choice, "has_gpu", lambda: False)
    monkeypatch.setattr(choice, "measured_speeds", lambda int8=False, again=False: INT8 if int8 else SPEEDS)
    return monkeypatch


def test_the_fastest_is_chosen_of_what_is_left_open(machine: pytest.MonkeyPatch) -> None:
    assert runtime_for("auto", "auto", None) == ("openvino", "bfloat16")
    assert runtime_for("auto", "float32", None) == ("openvino", "float32")
    assert runtime_for("openvino", "auto", "cpu") == ("openvino", "bfloat16")
    assert runtime_for("torch", "auto", None) == ("torch", None), "torch knows its device"
    assert runtime_for("auto", "int8", None) == ("openvino", "int8")


def test_bfloat16_must_be_worth_its_rounding() -> None:
    assert fastest({**SPEEDS, "openvino bfloat16": 15.0}, "openvino", "auto") == ("openvino", "float32")
    assert fastest({**SPEEDS, "openvino bfloat16": 11.0}, "auto", "bfloat16") == ("torch", "bfloat16")


def test_torch_must_be_faster_by_a_tenth() -> None:
    assert fastest({"torch float32": 11.5, "openvino float32": 11.0}, "auto", "float32") == ("openvino", "float32")
    assert fastest({"torch float32": 12.5, "openvino float32": 11.0}, "auto", "float32") == ("torch", "float32")


def test_variables_force_what_the_caller_leaves_open(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("PE_RUNTIME", "torch")
    machine.setenv("PE_DTYPE", "float32")
    assert runtime_for("auto", "auto", None) == ("torch", "float32")
    assert runtime_for("openvino", "bfloat16", None) == ("openvino", "bfloat16")
    assert runtime_for("auto", "int8", None) == ("openvino", "int8"), "only OpenVINO has it"
    machine.setenv("PE_RUNTIME", "onnx")
    with pytest.raises(ConfigError, match=r"^PE_RUNTIME is 'onnx'"):
        runtime_for("auto", "auto", None)
    machine.setenv("PE_RUNTIME", "torch")
    for wrong in ("float16", "int8"):
        machine.setenv("PE_DTYPE", wrong)
        with pytest.raises(ConfigError, match=rf"^PE_DTYPE is '{wrong}'; it must be one of float32, bfloat16"):
            runtime_for("auto", "auto", None)


def test_a_gpu_computes_with_torch(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(choice, "has_gpu", lambda: True)
    assert runtime_for("auto", "auto", None) == ("torch", None)
    assert runtime_for("auto", "auto", "cpu") == ("openvino", "bfloat16")
    with pytest.raises(ConfigError, match="omit device='cuda'"):
        runtime_for("openvino", "auto", "cuda")
    machine.setenv("PE_RUNTIME", "openvino")
    with pytest.raises(ConfigError, match="omit device='cuda'"):
        runtime_for("auto", "auto", "cuda")


def test_without_the_extra_torch_runs_and_int8_names_it(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(choice, "check_openvino", missing)
    assert runtime_for("auto", "auto", None) == ("torch", None)
    for runtime, precision in (("openvino", "auto"), ("auto", "int8")):
        with pytest.raises(MissingExtraError, match=r"perception-encoder\[fast\]"):
            runtime_for(runtime, precision, None)


def missing() -> None:
    raise MissingExtraError("openvino", "fast")


def test_a_broken_openvino_is_left_alone_and_refused_if_asked_for(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(choice, "check_openvino", check_openvino)
    machine.setattr("perception_encoder.runtime.machine.find_spec", lambda name: name)
    machine.setitem(sys.modules, "openvino", None)  # its import fails
    reason = "openvino is installed, but its import fails: import of openvino halted; .*; reinstall it"
    with pytest.warns(FallbackWarning, match=f"torch computes: {reason}"):
        assert runtime_for("auto", "auto", None) == ("torch", None)
    for runtime, precision in (("openvino", "auto"), ("auto", "int8")):
        with pytest.raises(ConfigError, match=reason):
            runtime_for(runtime, precision, None)


def test_towers_need_an_openvino_that_works(machine: pytest.MonkeyPatch) -> None:
    machine.setitem(sys.modules, "openvino", None)  # its import fails
    for found, kind, reason in (
        (None, MissingExtraError, r"perception-encoder\[fast\]"),
        (True, ConfigError, "reinstall"),
    ):
        machine.setattr("perception_encoder.runtime.machine.find_spec", lambda name, found=found: found)
        with pytest.raises(kind, match=reason):
            CompiledTowers("a", "float32", key=None, source=None)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), Exception("No space left for an operation")])
def test_without_speeds_the_reference_computes(error: Exception, machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timing = pytest.importorskip("perception_encoder.runtime.timing")

    def fail(int8: bool) -> None:
        raise error

    machine.setattr(timing, "measure_speeds", fail)
    machine.setattr(choice, "cache_directory", lambda name: tmp_path / name)
    machine.setattr(choice, "measured_speeds", measured_speeds)
    for arguments, expected in {
        ("auto", "auto"): ("torch", None),
        ("auto", "bfloat16"): ("torch", "bfloat16"),
        ("openvino", "auto"): ("openvino", "float32"),
    }.items():
        with pytest.warns(FallbackWarning, match="the runtimes could not be timed"):
            assert runtime_for(*arguments, None) == expected
    with pytest.raises(OutputError, match="the runtimes could not be timed"):
        runtime_for("auto", "int8", None)


@pytest.mark.parametrize(("runtime", "precision"), [("torch", "int8"), ("auto", "float16"), ("tvm", "auto")])
def test_what_does_not_exist_is_refused(machine: pytest.MonkeyPatch, runtime: str, precision: str) -> None:
    with pytest.raises(ConfigError):
        runtime_for(runtime, precision, None)


def test_speeds_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = pytest.importorskip("perception_encoder.runtime.timing")
    monkeypatch.setattr(choice, "cache_directory", lambda name: tmp_path / name)
    measured: list[int] = []
    monkeypatch.setattr(timing, "measure_speeds", lambda int8: measured.append(1) or SPEEDS)
    for _ in range(2):
        assert measured_speeds() == SPEEDS
    (path,) = tmp_path.rglob("*.json")
    damage = [{"torch float32": "fast"}, {**SPEEDS, "torch float32": 0.0}, dict.fromkeys("abcd", 1.0)]
    for number, damaged in enumerate(damage):
        path.write_text(json.dumps(damaged))
        assert measured_speeds() == SPEEDS and len(measured) == number + 2, "a damaged file is replaced"
    monkeypatch.setattr(choice, "cpu_flags", lambda: "another CPU")
    assert measured_speeds() == SPEEDS and len(measured) == 5


def test_int8_is_refused_where_it_is_not_faster_but_not_for_ever(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timing = pytest.importorskip("perception_encoder.runtime.timing")
    slow = {**INT8, "openvino int8": 20.0}
    measurements = [slow, slow, INT8]  # the first of a busy machine
    machine.setattr(timing, "measure_speeds", lambda int8: measurements.pop(0))
    machine.setattr(choice, "cache_directory", lambda name: tmp_path / name)
    machine.setattr(choice, "measured_speeds", measured_speeds)
    refusal = r"int8 is not faster on this CPU \(20 .*, 21 in bfloat16\); use precision bfloat16, or stop .* try again"
    with pytest.raises(ConfigError, match=refusal):
        runtime_for("auto", "int8", None)
    assert runtime_for("auto", "int8", None) == ("openvino", "int8")
    assert runtime_for("auto", "int8", None) == ("openvino", "int8"), "which is cached"


@pytest.mark.parametrize(("int8", "names"), [(False, SPEEDS), (True, INT8)])
def test_the_measurement_times_what_it_compares(int8: bool, names: dict[str, float]) -> None:
    pytest.importorskip("nncf")
    from perception_encoder.runtime.timing import measure_speeds

    speeds = measure_speeds(int8)
    assert set(speeds) == set(names) and all(speed > 0 for speed in speeds.values())
