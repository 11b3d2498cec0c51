"""Compiled programs and the blobs that cache them: the same bits, and nothing of a blob that is not ours is used."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from perception_encoder import create_model
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.runtime import convert, machine, program, quantization
from perception_encoder.runtime.cache import Tower
from perception_encoder.runtime.convert import Source, example_pixels
from perception_encoder.runtime.program import Program
from perception_encoder.runtime.runtime import PRECISIONS, Precision

openvino = pytest.importorskip("openvino")


@cache
def tower(name: Tower) -> tuple[Source, Any]:
    """The built-in model's, and converted."""
    source = convert.tower_of(create_model("builtin", pretrained=True).eval(), name)
    return source, convert.to_openvino(source)


class Saved:
    """A converted tower on disk, the blob of its program, and how often OpenVINO compiles."""

    def __init__(self, directory: Path, name: Tower, precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.precision = name, precision
        self.path, self.blob, self.compilations = directory / "model.xml", directory / "a.blob", 0
        model = tower(name)[1].clone()
        if precision == "int8":
            pytest.importorskip("nncf")
            model = quantization.quantize(model, "weights")
        openvino.save_model(model, self.path, compress_to_fp16=precision != "float32")
        machine.float_hint(True)  # which compiles, once
        compile_model = openvino.Core.compile_model

        def counted(*arguments: Any) -> Any:
            self.compilations += 1
            return compile_model(*arguments)

        monkeypatch.setattr(openvino.Core, "compile_model", counted)

    def outputs(self, streams: int = 1, blob: bool = True) -> list[bytes]:
        shape = (1, 3, 128, 128) if self.name == "image" else None
        made = Program(openvino.Core(), self.path, self.precision, shape, streams, self.blob if blob else None)
        if self.name == "image":
            return [made(example_pixels(5, 128, 128)).tobytes()]
        tokenizer = Tokenizer(32)
        return [made(tokenizer.ids(texts)).tobytes() for texts in (["a red mug"], ["two dogs", "snow", ""])]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["image", "text"])
def test_an_imported_program_gives_the_bits_of_a_compiled_one(
    tmp_path: Path, name: Tower, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Saved(tmp_path, name, precision, monkeypatch)
    for streams in (1, 2):
        expected = saved.outputs(streams, blob=False)
        assert saved.outputs(streams) == expected, "compiled, since a blob of other options does not fit"
        before = saved.compilations
        assert saved.outputs(streams) == expected
        assert saved.compilations == before, "it is imported"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.blob", "model.bin", "model.xml"]
    assert saved.blob.stat().st_size < saved.path.with_suffix(".bin").stat().st_size / 3, "it has no weights"


def flip(saved: Saved, at: float) -> None:
    content = bytearray(saved.blob.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    saved.blob.write_bytes(content)


def take_from_another_model(saved: Saved) -> None:
    other = saved.path.parent / "other"
    other.mkdir()
    for name in ("model.xml", "model.bin"):
        shutil.copy(saved.path.with_name(name), other)
    Program(openvino.Core(), other / "model.xml", saved.precision, (1, 3, 128, 128), 1, saved.blob)


DAMAGE: dict[str, Callable[[Saved], object]] = {
    "empty": lambda saved: saved.blob.write_bytes(b""),
    "truncated": lambda saved: os.truncate(saved.blob, saved.blob.stat().st_size // 2),
    **{f"a bit at {at:.0%}": (lambda saved, at=at: flip(saved, at)) for at in (0, 0.001, 0.3, 0.9, 1)},
    "of another model": take_from_another_model,
    "one after the other": lambda saved: saved.blob.write_bytes(2 * saved.blob.read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_or_foreign_blob_is_made_again(
    tmp_path: Path, damage: Callable[[Saved], object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saved = Saved(tmp_path, "image", "float32", monkeypatch)
    expected = saved.outputs()
    damage(saved)
    with caplog.at_level(logging.INFO, "perception_encoder"):
        before = saved.compilations
        assert saved.outputs() == expected
        assert saved.compilations == before + 1
    said = [record.getMessage() for record in caplog.records if record.name == program.__name__]
    assert len(said) == 1, said
    assert saved.outputs() == expected
    assert saved.compilations == before + 1, "the new blob is used"


def test_a_blob_depends_on_the_machine_and_the_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Saved(tmp_path, "image", "float32", monkeypatch)
    saved.outputs()
    for name, other in (("cpu_flags", "another CPU"), ("versions", {"openvino": "1"}), ("core_count", 7)):
        with monkeypatch.context() as patch:
            patch.setattr(program, name, lambda other=other: other)
            before = saved.compilations
            saved.outputs()
            assert saved.compilations == before + 1


def test_a_blob_that_openvino_refuses_or_that_cannot_be_stored_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no")

    saved = Saved(tmp_path, "image", "float32", monkeypatch)
    expected = saved.outputs()
    with monkeypatch.context() as patch:
        patch.setattr(openvino.Core, "import_model", refuse)
        assert saved.outputs() == expected
    (tmp_path / "directory").mkdir()
    for blob in 2 * (saved.path / "below a file", tmp_path / "directory"):
        before, saved.blob = saved.compilations, blob
        assert saved.outputs() == expected
        assert saved.compilations == before + 1
