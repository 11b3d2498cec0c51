"""Choose the runtime and the precision: measured once on each machine, not assumed."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from itertools import product
from typing import cast

from perception_encoder.errors import ConfigError, MissingExtraError, OutputError, one_line
from perception_encoder.files import cache_directory, digest, write_json
from perception_encoder.models.precision import WORTH, forced_precision
from perception_encoder.progress import progress_bar
from perception_encoder.records import Positive, parse_json
from perception_encoder.runtime.machine import check_openvino, core_count, cpu_flags, has_gpu, versions
from perception_encoder.runtime.openvino_towers import FallbackWarning
from perception_encoder.runtime.runtime import AUTO, FLOATS, PRECISIONS, RUNTIMES, Precision, RuntimeName, check_choice

VARIABLE = "PE_RUNTIME"
"""Environment variable that forces a runtime: "torch" or "openvino"."""
START = 1.1
"""Minimum advantage for which torch, whose import takes a second, is preferred to OpenVINO."""
Speeds = dict[str, float]
"""Images a second by "RUNTIME PRECISION"."""


def runtime_for(runtime: str, precision: str, device: str | None) -> tuple[RuntimeName, Precision | None]:
    """Return the runtime and precision to use; the precision is None if torch chooses it by its device.

    `runtime`, `precision`: "auto" or a name. `device`: as the caller gave it. Raises ConfigError for what does not fit
    together, and MissingExtraError for OpenVINO or int8 without the extra.
    """
    check_choice(runtime, precision)
    who = "OpenVINO"
    if runtime == AUTO and precision != "int8":
        runtime = os.environ.get(VARIABLE) or AUTO
        who = f"{VARIABLE}={runtime}"
        if runtime not in (AUTO, *RUNTIMES):
            raise ConfigError(f"{VARIABLE} is {runtime!r}; it must be one of {', '.join((AUTO, *RUNTIMES))}")
    if precision == AUTO:
        precision = forced_precision() or AUTO
    elsewhere = not device.startswith("cpu") if device else has_gpu()
    if precision == "int8" or runtime == "openvino":
        check_openvino()
        if elsewhere and device:
            raise ConfigError(f"{who} computes on the CPU; omit device={device!r}, or use the runtime torch")
        runtime = "openvino"
    elif runtime == AUTO and (elsewhere or not _has_openvino()):
        runtime = "torch"
    if runtime == "torch":
        return "torch", None if precision == AUTO else cast(Precision, precision)
    if precision == "int8":
        _check_int8()
    if runtime != AUTO and precision != AUTO:
        return cast(RuntimeName, runtime), cast(Precision, precision)
    try:
        return fastest(measured_speeds(), runtime, precision)
    except OutputError as error:
        slow = "torch" if runtime == AUTO else "float32"
        warnings.warn(f"{slow} is used, which may not be the fastest: {error}", FallbackWarning, stacklevel=3)
        if runtime == AUTO:
            return "torch", None if precision == AUTO else cast(Precision, precision)
        return "openvino", "float32"


def _has_openvino() -> bool:
    """Return whether OpenVINO can be used; warn if it is installed but broken."""
    try:
        check_openvino()
    except MissingExtraError:
        return False
    except ConfigError as error:
        warnings.warn(f"torch computes: {error}", FallbackWarning, stacklevel=4)
        return False
    return True


def fastest(speeds: Speeds, runtime: str, precision: str) -> tuple[RuntimeName, Precision]:
    """Return the fastest runtime and precision of those that fit the names, each "auto" or a name."""
    rows = {(name.split()[0], name.split()[1]): speed for name, speed in speeds.items()}
    fitting = {
        (ran, kind): speed / (WORTH if kind == "bfloat16" else 1) / (START if ran == "torch" else 1)
        for (ran, kind), speed in rows.items()
        if runtime in (AUTO, ran) and precision in (AUTO, kind)
    }
    best, kind = max(fitting, key=lambda row: fitting[row])
    return cast(RuntimeName, best), cast(Precision, kind)


def _check_int8() -> None:
    """Raise ConfigError if int8 is slower than a float here, as without VNNI; a cached no is measured again."""
    for again in (False, True):
        speeds = measured_speeds(int8=True, again=again)
        best, kind = max((speed, name.split()[1]) for name, speed in speeds.items() if "int8" not in name)
        if speeds["openvino int8"] > best:
            return
    raise ConfigError(
        f"int8 is not faster on this CPU ({speeds['openvino int8']:.0f} images/s of a small model, {best:.0f} in "
        f"{kind}); use precision {kind}, or stop other programs and try again: it is then measured anew"
    )


def measured_speeds(int8: bool = False, again: bool = False) -> Speeds:
    """Return the speeds on this machine, measured in a few seconds and cached with the CPU's features.

    `int8`: those of OpenVINO only, with int8. `again`: measure even if they are cached. Raises OutputError if they
    cannot be measured, as on a full disk.
    """
    compared = product(("openvino",), PRECISIONS) if int8 else product(RUNTIMES, FLOATS)
    names = {f"{ran} {kind}" for ran, kind in compared}
    path = cache_directory("runtime") / f"{digest(cpu_flags(), core_count(), versions(), int8)}.json"
    with suppress(OSError, ValueError):
        speeds = {} if again else parse_json(path.read_bytes(), dict[str, Positive])
        if speeds.keys() == names:
            return speeds
    from perception_encoder.runtime.timing import measure_speeds

    try:
        with progress_bar("measuring what is the fastest on this machine, once"):
            speeds = measure_speeds(int8)
    except Exception as error:  # what a tracer, OpenVINO and nncf raise is open-ended
        raise OutputError(f"the runtimes could not be timed: {one_line(error, first=True)}") from error
    with suppress(OutputError):
        write_json(path, speeds)
    return speeds
