"""How many images a request computes: measured with a clock of our own; equal embeddings whatever it is."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from perception_encoder import create_model
from perception_encoder.models.precision import TOLERANCE
from perception_encoder.runtime import convert, machine, requests
from perception_encoder.runtime.program import Program, activation_bytes
from perception_encoder.runtime.requests import (
    FILE,
    MAX_ACTIVATIONS,
    MAX_IMAGES,
    RENEW,
    RequestShape,
    fastest_request,
    find_measurement,
    measure_requests,
)
from perception_encoder.runtime.runtime import Precision
from perception_encoder.vectors import unit_rows

IMAGE = np.zeros((1, 3, 8, 8), np.uint8)
AMX = {(1, 2): 19.8, (2, 2): 26.2, (4, 2): 30.1, (8, 2): 32.6, (16, 1): 30.4}
"""Images a second of B16 in bfloat16 on a CPU with AMX, by images a request and requests at a time."""
PLAIN = {(1, 2): 10.4, (2, 2): 10.6, (4, 2): 10.2, (8, 2): 10.7, (16, 1): 8.0}
"""The same without AMX."""


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "core_count", lambda: 2)
    monkeypatch.setenv("PE_MEASURE", "1")


class Machine:
    """A machine with known speeds, whose clock stands still unless it computes."""

    def __init__(self, speeds: dict[tuple[int, int], float], share: float = 1.0, scale: float = 1.0) -> None:
        self.speeds, self.share, self.scale = speeds, share, scale
        self.seconds, self.compiled = 0.0, []

    def compile(self, request: RequestShape) -> Callable[[np.ndarray], np.ndarray]:
        if request not in self.speeds:
            raise RuntimeError("no memory")
        self.compiled.append(tuple(request))

        def compute(images: np.ndarray) -> np.ndarray:
            assert len(images) == request.batch
            self.seconds += request.batch / self.speeds[request] * self.scale
            return images

        return compute

    def measure(self, largest: int = MAX_IMAGES) -> requests.Measurement:
        return measure_requests(
            self.compile, IMAGE, largest, lambda: self.seconds, lambda: 2 * self.share * self.seconds
        )


@pytest.mark.parametrize(
    ("speeds", "largest", "chosen", "tried"),
    [
        (AMX, 8, (8, 2), 5),
        (AMX, 4, (4, 2), 3),  # 8 × 1 is not known there: it cannot be compiled
        (AMX, 1, (1, 2), 1),
        (PLAIN, 8, (1, 2), 2),
        ({**PLAIN, (2, 2): 11.0, (4, 2): 11.5}, 8, (2, 2), 3),
        ({(1, 2): 10.0, (2, 2): 20.0, (4, 1): 30.0}, 2, (4, 1), 3),
        ({(1, 2): 10.0, (2, 2): 20.0}, 8, (2, 2), 2),
    ],
)
def test_larger_requests_are_tried_while_they_gain(
    speeds: dict[tuple[int, int], float], largest: int, chosen: tuple[int, int], tried: int
) -> None:
    made = Machine(speeds)
    found = made.measure(largest)
    assert found.request == chosen and len(made.compiled) == tried
    assert found.expires is None
    if tried > 1:
        assert found.speed == pytest.approx(speeds[chosen])


def test_a_slow_tower_is_not_measured_for_long() -> None:
    made = Machine(AMX, scale=20.0)
    assert made.measure().request == (2, 2)
    assert made.seconds < 60


def stored(directory: Path, made: Machine, *, bytes_each: int = 1) -> RequestShape:
    return fastest_request(directory, "a model", lambda: bytes_each, made.compile, IMAGE)


def test_a_measurement_is_stored_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Machine(AMX)
    monkeypatch.setattr(requests, "measure_requests", lambda compiled, image, largest: made.measure(largest))
    assert stored(tmp_path, made) == (8, 2)
    count = len(made.compiled)
    assert stored(tmp_path, made) == (8, 2) and len(made.compiled) == count, "it is stored"
    for damage in (b"", b"{}", b"[" * 100_000, (tmp_path / FILE).read_bytes()[:-20]):
        (tmp_path / FILE).write_bytes(damage)
        assert stored(tmp_path, made) == (8, 2)
        assert len(made.compiled) > count, "one that was interrupted is not believed"
        count = len(made.compiled)
    monkeypatch.setattr(requests, "core_count", lambda: 1)
    made.speeds = {(1, 1): 1.0, (2, 1): 2.0, (4, 1): 2.0}
    assert stored(tmp_path, made) == (2, 1), "a container has fewer cores than before"


def test_a_measurement_under_load_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Machine(PLAIN, share=0.5)
    monkeypatch.setattr(requests, "measure_requests", lambda compiled, image, largest: made.measure(largest))
    assert stored(tmp_path, made) == (1, 2) and find_measurement(tmp_path) is not None
    values = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    (tmp_path / FILE).write_text(json.dumps({**values, "expires": values["expires"] - RENEW - 1}), encoding="utf-8")
    assert find_measurement(tmp_path) is None
    made.share, made.speeds = 1.0, AMX
    assert stored(tmp_path, made) == (8, 2)


def test_large_towers_compute_fewer_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Machine(AMX)
    monkeypatch.setattr(requests, "measure_requests", lambda compiled, image, largest: made.measure(largest))
    for images in (4, 2, 1, 0):
        (tmp_path / FILE).unlink(missing_ok=True)
        each = MAX_ACTIVATIONS // (2 * images) if images else MAX_ACTIVATIONS
        assert stored(tmp_path, made, bytes_each=each) == (max(1, images), 2)


def test_nothing_is_measured_where_it_cannot_be_stored_or_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = Machine(AMX)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with caplog.at_level(logging.INFO, requests.__name__):
        assert stored(tmp_path, made) == (1, 2)
    assert "cannot be written: one image on each core" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(requests, "core_count", lambda: 2)
    monkeypatch.setenv("PE_MEASURE", "0")
    assert stored(tmp_path, made) == (1, 2) and made.compiled == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_embedding_is_the_same_in_every_request(tmp_path: Path, precision: Precision) -> None:
    openvino = pytest.importorskip("openvino")
    source = convert.tower_of(create_model("builtin", pretrained=True).eval(), "image")
    path = tmp_path / "model.xml"
    openvino.save_model(convert.to_openvino(source), path, compress_to_fp16=precision != "float32")
    core, pixels = openvino.Core(), convert.example_pixels(11, 128, 128)
    machine.float_hint(True)
    expected = unit_rows(source.run(pixels))
    for images, streams in ((1, 2), (4, 2), (8, 1), (8, 2)):
        program = Program(core, path, precision, (images, 3, 128, 128), streams)
        for count in (1, 3, 8, 11):
            found = program(pixels[:count])
            assert found.shape == (count, expected.shape[1])
            assert np.abs(unit_rows(found) - expected[:count]).max() <= 2 * TOLERANCE[precision]
    assert 1e5 < activation_bytes(core, path, pixels.shape) < 1e8
