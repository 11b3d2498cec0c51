"""How many images a compiled tower computes together: measured for each tower, once on each machine.

With AMX, eight images in one request are 1.1 to 1.3 times as fast as one, without it as fast (docs/results/speed.md).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from perception_encoder.errors import OutputError
from perception_encoder.files import digest, write_json
from perception_encoder.progress import progress_bar
from perception_encoder.records import parse_json
from perception_encoder.runtime.machine import core_count, cpu_flags, versions

logger = logging.getLogger(__name__)

VARIABLE = "PE_MEASURE"
"""Environment variable; "0": time no towers, so that all processes and machines compute alike."""
FILE = "requests.json"
"""The measurement, beside the tower."""
MAX_IMAGES = 8
"""Maximum number of images that each core computes together."""
MAX_ACTIVATIONS = 256 * 2**20
"""Maximum size of the activations of all requests, in bytes."""
GAIN = 1.05
"""Minimum advantage of a larger request: it makes small batches slower."""
ROUNDS = 3
BUDGET = 10.0
"""Seconds after which no larger request is tried."""
IDLE, RENEW = 0.8, 3600.0
"""A measurement that got less than this share of the cores is repeated after this many seconds."""

T = TypeVar("T")
Compute = Callable[[np.ndarray], np.ndarray]


class RequestShape(NamedTuple):
    """How a program computes a batch: `streams` requests at the same time, of `images` each."""

    images: int
    streams: int

    @property
    def batch(self) -> int:
        return self.images * self.streams

    def __str__(self) -> str:
        return f"{self.images} × {self.streams}"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The speeds of a tower on one machine."""

    machine: str
    """Digest of the CPU, the number of cores and the libraries."""
    images: int
    streams: int
    speeds: dict[str, float]
    """Images a second by request."""
    expires: float | None
    """Time after which it is repeated, in seconds since 1970, if other programs were running."""

    @property
    def request(self) -> RequestShape:
        return RequestShape(self.images, self.streams)

    @property
    def speed(self) -> float | None:
        """Images a second; None if nothing could be compared with it."""
        return self.speeds.get(str(self.request))


def measures() -> bool:
    """Return whether towers may be timed."""
    return os.environ.get(VARIABLE, "1") != "0"


def find_measurement(directory: Path) -> Measurement | None:
    """Return the measurement of the tower in a directory, if it is of this machine and has not expired."""
    with suppress(OSError, ValueError):
        found = parse_json((directory / FILE).read_bytes(), Measurement)
        valid = found.machine == _machine() and (found.expires is None or found.expires > time.time())
        if valid and found.images > 0 and found.streams > 0:
            return found
    return None


def fastest_request(
    directory: Path,
    name: str,
    activations: Callable[[], int],
    compiled: Callable[[RequestShape], Compute],
    image: np.ndarray,
) -> RequestShape:
    """Return the request to compute a tower with: as measured, or measured now and stored.

    Args:
        directory: The tower's, in the cache.
        name: Name of the model, for the progress bar.
        activations: Returns the bytes that an image takes.
        compiled: Compiles the tower; raises RuntimeError if it cannot.
        image: Pixels (1, 3, H, W).
    """
    usual = RequestShape(1, core_count())
    if not measures():
        return usual
    if found := find_measurement(directory):
        return found.request
    if not os.access(directory, os.W_OK):
        logger.info("%s cannot be written: one image on each core, which is not the fastest on every CPU", directory)
        return usual
    largest = min(MAX_IMAGES, MAX_ACTIVATIONS // max(1, activations() * usual.streams))
    with progress_bar(f"measuring how many images {name} computes together, once"):
        measurement = measure_requests(compiled, image, largest)
    with suppress(OutputError):
        write_json(directory / FILE, asdict(measurement))
    return measurement.request


def measure_requests(
    compiled: Callable[[RequestShape], Compute],
    image: np.ndarray,
    largest: int,
    clock: Callable[[], float] = time.perf_counter,
    processor: Callable[[], float] = time.process_time,
) -> Measurement:
    """Time larger and larger requests while they gain; then as many images in one request, by all cores.

    `largest`: maximum number of images a request. `clock`, `processor`: seconds, and those of all cores in use.
    """
    cores, start = core_count(), clock()
    best, busy, wall = RequestShape(1, cores), 0.0, 0.0
    program, speeds = compiled(best), {}

    def against_best(request: RequestShape) -> bool:
        """Time a request and the best one in turn; return whether it is the new best."""
        nonlocal best, program, busy, wall
        try:
            other = compiled(request)
        except RuntimeError as error:  # such as too little memory
            logger.info("%s images in a request: %s", request, error)
            return False
        begun, used = clock(), processor()
        rounds = {best: partial(program, _batch(image, best)), request: partial(other, _batch(image, request))}
        seconds = shortest(rounds, ROUNDS, clock)
        busy, wall = busy + processor() - used, wall + clock() - begun
        speeds.update({str(kind): kind.batch / taken for kind, taken in seconds.items()})
        better = best.batch / seconds[best] * GAIN <= request.batch / seconds[request]
        if better:
            best, program = request, other
        return better

    while (
        best.images * 2 <= largest and clock() - start < BUDGET and against_best(RequestShape(best.images * 2, cores))
    ):
        pass
    if best.images > 1 and cores > 1 and clock() - start < BUDGET:
        against_best(RequestShape(best.batch, 1))
    loaded = wall > 0 and busy < IDLE * cores * wall
    return Measurement(
        machine=_machine(),
        images=best.images,
        streams=best.streams,
        speeds=speeds,
        expires=time.time() + RENEW if loaded else None,
    )


def shortest(
    calls: Mapping[T, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[T, float]:
    """Return each call's shortest time in seconds, called in turn; the first round, which sets up, does not count."""
    seconds = dict.fromkeys(calls, float("inf"))
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if number:
                seconds[name] = min(seconds[name], clock() - start)
    return seconds


def _batch(image: np.ndarray, request: RequestShape) -> np.ndarray:
    return np.repeat(image, request.batch, axis=0)


def _machine() -> str:
    return digest(cpu_flags(), core_count(), versions())
