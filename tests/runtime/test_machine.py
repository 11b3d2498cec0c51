"""What is found out about a machine without importing torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception_encoder.runtime import machine
from perception_encoder.runtime.machine import core_count, has_gpu


def test_a_gpu_is_one_that_torch_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_gpu() == torch.cuda.is_available()

    class Driver:
        @staticmethod
        def cuInit(flags: int) -> int:
            return 0

        @staticmethod
        def cuDeviceGetCount(count: object) -> int:
            count._obj.value = 2  # type: ignore[attr-defined]
            return 0

    def no_library(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(machine.os.path, "exists", lambda path: path == "/dev/kfd")
    for build, library, expected in (
        ("2.13.0", lambda name: Driver, True),
        ("2.13.0", no_library, False),
        ("2.13.0+cpu", lambda name: Driver, False),
        ("2.13.0+rocm6.4", no_library, True),
    ):
        monkeypatch.setattr(machine.ctypes, "CDLL", library)
        has_gpu.cache_clear()
        monkeypatch.setattr(machine, "versions", lambda build=build: {"torch": build})
        assert has_gpu() == expected
    has_gpu.cache_clear()


def test_cores_can_be_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert core_count() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert core_count() >= 1


def test_features_that_are_hidden_make_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled, measured or tried without the limit is not used with it."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    whole = machine.cpu_flags.__wrapped__()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine.cpu_flags.__wrapped__() != whole


def test_bfloat16_is_tried_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ask, tries = machine._computes_bfloat16.__wrapped__, []

    def compile_model(*_: object) -> None:
        tries.append(machine.cpu_flags())
        if machine.cpu_flags() == "old":
            raise RuntimeError("bf16 is not supported")

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    for flags in ("new", "old"):
        monkeypatch.setattr(machine, "cpu_flags", lambda flags=flags: flags)
        assert [ask(), ask()] == 2 * [flags == "new"]
    assert tries == ["new", "old"]
    for file in (tmp_path / "perception-encoder" / "runtime").iterdir():
        file.write_text('"yes"')
    assert ask() is False and tries == ["new", "old", "old"]
