"""Towers in OpenVINO: the same as in torch, from a cache that is not trusted; where it fails, torch answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.errors import ShapeError
from perception_encoder.models.checkpoints.weights import weight_hash
from perception_encoder.models.precision import TOLERANCE
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.runtime import cache, convert, openvino_towers, requests
from perception_encoder.runtime import program as program_module
from perception_encoder.runtime.cache import MODEL, WEIGHTS
from perception_encoder.runtime.convert import example_pixels
from perception_encoder.runtime.openvino_towers import SMALL_IN_A_ROW, FallbackWarning, OpenVinoTowers
from perception_encoder.runtime.program import EXAMPLE, Program
from perception_encoder.runtime.requests import RequestShape
from perception_encoder.runtime.runtime import Precision
from perception_encoder.runtime.torch_towers import TorchTowers, describe
from perception_encoder.vectors import unit_rows
from tests.models.small import CORE, KINDS, SIZE, WITHOUT_ROPE, small_tower

pytest.importorskip("openvino")

PIXELS = example_pixels(5, SIZE, SIZE)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    yield cache.root()


class Made:
    """The towers of a small model, and how often its weights were loaded."""

    def __init__(self, precision: Precision = "float32", tower: VisionTransformer | None = None) -> None:
        self.tower, self.loads = tower or small_tower(), 0
        self.towers = OpenVinoTowers(describe(self.tower, weight_hash(self.tower)), precision, self._load)

    def _load(self) -> VisionTransformer:
        self.loads += 1
        return self.tower

    def embed(self) -> np.ndarray:
        return self.towers.images(PIXELS, CORE.depth - 1, "attn")


def in_torch(layer: int = CORE.depth - 1, pool: str = "attn", tower: VisionTransformer | None = None) -> np.ndarray:
    return TorchTowers(tower or small_tower(), torch.device("cpu"), torch.float32).images(PIXELS, layer, pool)


def unit_distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(unit_rows(found) - unit_rows(expected)).max())


def test_a_tower_is_converted_once_and_gives_what_torch_gives() -> None:
    for precision in ("float32", "bfloat16"):
        first, second = Made(precision), Made(precision)
        for made in (first, second):
            assert unit_distance(made.embed(), in_torch()) <= 2 * TOLERANCE[precision]  # 16 large values
            assert made.embed().shape == (5, CORE.output_dim) and made.embed().dtype == np.float32
        assert (first.loads, second.loads) == (1, 0)
        assert np.array_equal(first.embed(), second.embed())
        assert first.towers.images(PIXELS[:0], CORE.depth - 1, "attn").shape == (0, CORE.output_dim)
        assert np.array_equal(first.towers.images(PIXELS[3:4], CORE.depth - 1, "attn"), first.embed()[3:4])


class Streams:
    """A runtime as on a machine of some cores, and how many images its programs compute at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
        for module in (openvino_towers, program_module, requests):
            monkeypatch.setattr(module, "core_count", lambda: cores)
        self.made = Made()

    def after(self, count: int, times: int = 1) -> list[int]:
        """What there is after calls with `count` images, whose embeddings are those of torch."""
        for _ in range(times):
            found = self.made.towers.images(PIXELS[:count], CORE.depth - 1, "attn")
            assert unit_distance(found, in_torch()[:count]) <= 2 * TOLERANCE["float32"]
        tower = self.made.towers.runtime._towers["image", None]
        assert tower is not None
        return sorted(len(program._requests) for program in tower._programs.values())


@pytest.mark.parametrize(("cores", "small"), [(4, 1), (16, 4)])
def test_all_cores_compute_each_image_of_a_small_batch(monkeypatch: pytest.MonkeyPatch, cores: int, small: int) -> None:
    streams = Streams(monkeypatch, cores)
    assert streams.after(small) == [1], "a query needs no other program"
    alone = streams.made.towers.images(PIXELS[:1], CORE.depth - 1, "attn")
    assert streams.after(5) == [1, cores], "one on each core"
    assert np.array_equal(alone, streams.made.embed()[:1]), "an embedding does not depend on its batch"


def test_a_tower_is_compiled_for_small_batches_after_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the last image of a directory: compiling would take longer."""
    streams = Streams(monkeypatch, 4)
    streams.made.towers.runtime.prepare(None)
    for _ in range(3):
        assert [streams.after(1), streams.after(5)] == [[4], [4]]
    assert streams.after(1, SMALL_IN_A_ROW - 1) == [4]
    assert streams.after(1) == [1, 4], "queries"


def test_a_tower_in_use_goes_on_if_it_cannot_be_compiled_for_small_batches(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """For want of memory, or because the entry was deleted."""
    streams = Streams(monkeypatch, 4)
    assert streams.after(5) == [4]
    shutil.rmtree(root)
    assert streams.after(1, 2 * SMALL_IN_A_ROW) == [4, 4]
    assert streams.made.loads == 1
    assert streams.after(5) == [4, 4]


def test_a_query_does_not_wait_for_the_measurement_of_large_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(directory: Path, name: str, *_: object) -> RequestShape:
        measured.append(name)
        return RequestShape(2, 2)

    monkeypatch.setattr(openvino_towers, "fastest_request", measure)
    made = Made()
    for _ in range(2 * SMALL_IN_A_ROW):
        made.towers.images(PIXELS[:1], CORE.depth - 1, "attn")
    assert not measured
    assert unit_distance(made.embed(), in_torch()) <= 2 * TOLERANCE["float32"]
    assert len(measured) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_and_pooling_of_every_kind_of_tower(kind: str) -> None:
    tower = small_tower(KINDS[kind])
    made = Made(tower=tower)
    for layer in (0, KINDS[kind].depth - 1):
        for pool in ("mean", "tokens", *(("cls",) if KINDS[kind].class_token else ())):
            found, expected = made.towers.images(PIXELS, layer, pool), in_torch(layer, pool, tower)
            assert found.shape == expected.shape
            assert unit_distance(found, expected) <= 1e-5


def test_towers_of_the_same_weights_may_have_other_configurations() -> None:
    towers = [small_tower(config) for config in (CORE, WITHOUT_ROPE)]
    assert weight_hash(towers[0]) == weight_hash(towers[1])
    for tower in towers:
        assert unit_distance(Made(tower=tower).embed(), in_torch(tower=tower)) <= 2 * TOLERANCE["float32"]


def test_pixels_of_another_size_are_refused_and_cost_nothing(root: Path) -> None:
    made = Made()
    expected = made.embed()
    with pytest.raises(ShapeError, match=r"pixels are \(5, 3, 16, 16\)"):
        made.towers.images(PIXELS[:, :, :16, :16], CORE.depth - 1, "attn")
    assert len(cache.entries()) == 1
    assert np.array_equal(made.embed(), expected) and made.loads == 1


def test_the_layers_used_last_are_in_memory() -> None:
    """A server's clients may ask for every layer, and each is a tower of its own."""
    made = Made()
    made.embed()
    for layer in (0, 1, 0, 2):
        made.towers.images(PIXELS, layer, "mean")
    assert [layer for _, layer in made.towers.runtime._towers] == [None, 0, 2]
    loads = made.loads
    assert unit_distance(made.towers.images(PIXELS, 1, "mean"), in_torch(1, "mean")) <= 1e-5
    assert made.loads == loads  # from the cache


def overwrite(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda directory: (directory / file).write_bytes(change((directory / file).read_bytes()))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights zeroed": overwrite(WEIGHTS, lambda data: bytes(len(data))),
    "weights truncated": overwrite(WEIGHTS, lambda data: data[: len(data) // 2]),
    "model truncated": overwrite(MODEL, lambda data: data[: len(data) // 2]),
    "example empty": overwrite(EXAMPLE, lambda _: b""),
    "example damaged": overwrite(EXAMPLE, lambda data: data[:-200] + bytes(200)),
    "example of one flipped bit": overwrite(EXAMPLE, lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_that_the_checksums_do_not_show_is_converted_again(
    damage: Callable[[Path], object], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Made().embed()
    (directory,) = root.iterdir()
    damage(directory)
    monkeypatch.setattr(cache, "_is_intact", lambda _: True)  # as by a disk that damages what it reads
    made = Made()
    assert np.array_equal(made.embed(), expected)
    assert made.loads == 1


def test_an_evicted_entry_is_converted_again_and_a_tower_in_use_goes_on() -> None:
    made = Made()
    expected = made.embed()
    assert cache.delete()
    assert np.array_equal(made.embed(), expected) and made.loads == 1
    again = Made()
    assert np.array_equal(again.embed(), expected) and again.loads == 1


def disturb(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Let the next calls of programs give something else."""
    left, run = [calls], Program.__call__

    def wrong(self: Program, inputs: np.ndarray) -> np.ndarray:
        left[0] -= 1
        outputs = run(self, inputs)
        return outputs if left[0] < 0 else outputs + np.abs(outputs).max()

    monkeypatch.setattr(Program, "__call__", wrong)


def test_a_program_that_gives_something_else_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Made().embed()
    made = Made()
    disturb(monkeypatch, 1)
    assert np.array_equal(made.embed(), expected)


def fallback(made: Made, expected: np.ndarray, reason: str) -> None:
    """Torch answers, with one note for all calls."""
    with pytest.warns(FallbackWarning, match=f"^small is computed with torch: {reason}") as notes:
        for _ in range(2):
            np.testing.assert_array_equal(made.embed(), expected)
    assert len(notes) == 1


def test_a_program_that_nobody_uses_gives_its_memory_back() -> None:
    made = Made()
    made.embed()
    (entry,) = cache.entries()
    program = Program(made.towers.runtime._core, entry.path, "float32", (1, *PIXELS.shape[1:]))
    program(PIXELS)
    gone = weakref.ref(program)
    del program
    assert gone() is None


def test_torch_answers_if_programs_always_give_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    Made().embed()
    disturb(monkeypatch, 100)
    fallback(Made(), in_torch(), "in float32 OpenVINO differs from torch by .*, more than 5e-06")


def test_torch_answers_if_a_converted_tower_differs(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(convert, "TOLERANCE", {"float32": 0.0})
    fallback(Made(), in_torch(), "in float32 OpenVINO differs from torch by")
    assert cache.entries() == []


def test_torch_answers_if_openvino_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Exception from src/core.cpp:12:\nno memory\nmore")

    Made().embed()
    monkeypatch.setattr(openvino_towers, "Program", fail)
    made = Made()
    fallback(made, in_torch(), "no memory$")


def test_torch_answers_if_the_cache_cannot_be_written(root: Path) -> None:
    root.parent.mkdir(parents=True)
    root.write_text("a file")
    fallback(Made(), in_torch(), r".* could not be written: ")


def test_int8_that_cannot_be_converted_is_torchs_float32(root: Path) -> None:
    root.parent.mkdir(parents=True)
    root.write_text("a file")
    with pytest.warns(FallbackWarning, match="small is computed with torch") as notes:
        made = Made("int8")
        assert made.towers.runtime.precision == "float32"
        np.testing.assert_array_equal(made.embed(), in_torch())
    assert len(notes) == 1


def test_nan_in_weights_is_what_it_is_in_torch(root: Path) -> None:
    tower = small_tower()
    with torch.no_grad():
        tower.conv1.weight[0] = torch.nan
    fallback(Made(tower=tower), in_torch(tower=tower), "small gives NaN or infinity: its weights are bad")
    assert cache.entries() == []


EMBED = """
import resource, sys, warnings
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
import numpy as np
from tests.runtime.test_openvino_towers import Made
with warnings.catch_warnings(record=True) as notes:
    warnings.simplefilter("always")
    outputs = Made().embed()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
np.save(sys.argv[1], outputs)
print(*[note.message for note in notes if "torch" in str(note.message)])
"""


def start_embedding(out: Path, *limit: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", EMBED, str(out), *map(str, limit)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows limits no files")
@pytest.mark.parametrize("limit", [60_000, 150_000])
def test_torch_answers_if_the_disk_is_full(limit: int, root: Path, tmp_path: Path) -> None:
    """The limits are reached by the model and by its weights."""
    process = start_embedding(tmp_path / "found.npy", limit)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert stdout.startswith("small is computed with torch: ") and "could not be written: " in stdout
    assert "is the disk full?" in stdout or "File too large" in stdout
    assert stdout.count("\n") == 1
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), in_torch(), rtol=1e-5, atol=1e-5)
    assert [path for path in root.rglob("*") if path.suffix != ".json"] == []


def test_two_processes_convert_at_once_and_agree(root: Path, tmp_path: Path) -> None:
    processes = [start_embedding(tmp_path / f"{number}.npy") for number in range(2)]
    for process in processes:
        stdout, stderr = process.communicate()
        assert (process.returncode, stdout.strip()) == (0, ""), stderr
    first, second = (np.load(tmp_path / f"{number}.npy") for number in range(2))
    assert np.array_equal(first, second)
    assert len(list(root.iterdir())) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Made()
        assert unit_distance(made.embed(), first) <= 2 * TOLERANCE["float32"] and made.loads == 0
