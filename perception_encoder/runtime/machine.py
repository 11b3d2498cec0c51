"""Detect the machine's cores, CPU features, GPU and libraries, without importing torch."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from perception_encoder.errors import ConfigError, MissingExtraError, OutputError, one_line
from perception_encoder.files import cache_directory, digest, write_json
from perception_encoder.records import parse_json

_VECTOR_FLAGS = ("avx", "amx", "fma", "f16c", "asimd", "sve", "i8mm", "bf16")
"""Beginnings or parts of the names of the CPU features that change kernels, as Linux lists them."""


def core_count() -> int:
    """Return the number of cores that this process may use; OMP_NUM_THREADS limits it."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdecimal() and int(limit):
        return int(limit)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_flags() -> str:
    """Return the CPU's name and the vector features that may be used: programs for another one are not used here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    listed = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    limits = filter(None, map(os.environ.get, ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")))
    flags = sorted(f for f in listed if any(part in f for part in _VECTOR_FLAGS))
    return " ".join([platform.machine(), *flags, *limits])


@cache
def has_gpu() -> bool:
    """Return whether torch could use a CUDA GPU: one is visible to the driver, and torch's build is not for CPUs."""
    build = versions()["torch"].partition("+")[2]
    if build == "cpu":
        return False
    if build.startswith("rocm"):  # AMD's GPUs, which torch calls CUDA too
        return os.path.exists("/dev/kfd")
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


def check_openvino() -> None:
    """Import OpenVINO; MissingExtraError without the extra `fast`, ConfigError if the import fails."""
    if find_spec("openvino") is None:
        raise MissingExtraError("openvino", "fast")
    try:
        import openvino  # noqa: F401
    except Exception as error:  # what a broken installation raises is open-ended
        raise ConfigError(f"openvino is installed, but its import fails: {one_line(error)}; reinstall it") from error


def float_hint(half: bool) -> Literal["f32", "bf16"]:
    """Return OpenVINO's name of the type to compute in; `half`: bfloat16, if it can compute in it here."""
    return "bf16" if half and _computes_bfloat16() else "f32"


@cache
def _computes_bfloat16() -> bool:
    """Return whether OpenVINO compiles a product in bfloat16, which is tried once on each machine.

    It asks the CPU itself, so it may fail where ONEDNN_MAX_CPU_ISA or a virtual machine hides some of the features.
    """
    import openvino
    from openvino import opset13 as ops

    path = cache_directory("runtime") / f"bfloat16-{digest(cpu_flags(), versions())}.json"
    with suppress(OSError, ValueError):
        return parse_json(path.read_bytes(), bool)
    x = ops.parameter([1, 16], openvino.Type.f32)
    product = ops.matmul(x, ops.constant(np.zeros((16, 16), np.float32)), False, True)
    compiles = False
    with suppress(RuntimeError):
        openvino.Core().compile_model(
            openvino.Model([product], [x], "product"), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"}
        )
        compiles = True
    with suppress(OutputError):
        write_json(path, compiles)
    return compiles


@cache
def versions() -> dict[str, str]:
    """Return the versions of the libraries that compile and execute towers."""
    found = {}
    for name in ("openvino", "nncf", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
