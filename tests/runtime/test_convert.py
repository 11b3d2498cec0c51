"""A converted tower that computes something else is refused: the examples and the check inputs tell mistakes apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.errors import ModelError
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize
from perception_encoder.preprocess.tokenizer import END
from perception_encoder.runtime import convert
from perception_encoder.runtime.cache import Tower
from perception_encoder.runtime.program import Program
from perception_encoder.runtime.runtime import Precision

openvino = pytest.importorskip("openvino")
Change = Callable[[np.ndarray], np.ndarray]


@cache
def model() -> CLIP:
    vision = VisionConfig(image_size=32, patch_size=16, width=32, depth=2, heads=2, mlp_width=64, output_dim=128)
    text = TextConfig(context_length=20, width=32, depth=2, heads=2, output_dim=128)
    clip = CLIP(vision, text, "tiny")
    initialize(clip, torch.Generator().manual_seed(0))
    return clip.eval()


def at_the_last_position(ids: np.ndarray) -> np.ndarray:
    """The text is read to its last position, not to its end token."""
    changed = np.where(ids == END, 500, ids)
    changed[:, -1] = END
    return changed


def words_reversed(ids: np.ndarray) -> np.ndarray:
    changed = ids.copy()
    for row in changed:
        end = int(row.argmax())
        row[1:end] = row[1:end][::-1]
    return changed


def one_word_changed(ids: np.ndarray) -> np.ndarray:
    changed = ids.copy()
    changed[-1, 1] += 1
    return changed


def of_one_length(ids: np.ndarray) -> np.ndarray:
    """Only texts of the traced length are right."""
    return ids if ids.shape[1] == convert.example_ids(20).shape[1] else words_reversed(ids)


def the_first_for_all(inputs: np.ndarray) -> np.ndarray:
    return np.repeat(inputs[:1], len(inputs), axis=0)


MISTAKES: dict[Tower, list[Change]] = {
    "text": [at_the_last_position, words_reversed, one_word_changed, of_one_length, the_first_for_all],
    "image": [
        the_first_for_all,
        lambda pixels: pixels[:, ::-1],  # BGR
        lambda pixels: pixels[:, :, ::-1],
        lambda pixels: pixels.transpose(0, 1, 3, 2),
        lambda pixels: pixels // 2,
        lambda pixels: np.concatenate([pixels[:1], pixels[1:, :, ::-1]]),  # in one of the two only
    ],
}
CASES = [(tower, number) for tower, changes in MISTAKES.items() for number in range(len(changes))]


def mistaken(change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let converted towers compute another input than the given one."""
    compute = Program.__call__
    monkeypatch.setattr(Program, "__call__", lambda self, inputs: compute(self, change(inputs)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("tower", "number"), CASES)
def test_a_float_tower_that_computes_something_else_is_refused(
    tower: Tower, number: int, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistaken(MISTAKES[tower][number], monkeypatch)
    with pytest.raises(ModelError, match=f"in {precision} OpenVINO differs from torch by"):
        convert.convert_tower(openvino.Core(), convert.tower_of(model(), tower), "tiny", precision, tmp_path)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_only_int8_computes_queries_keys_and_values_together(tower: Tower, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    products = {}
    for precision in ("int8", "bfloat16"):
        (home := tmp_path / precision).mkdir()
        convert.convert_tower(openvino.Core(), convert.tower_of(model(), tower), "tiny", precision, home)
        graph = openvino.Core().read_model(home / "model.xml")
        products[precision] = sum(operation.get_type_name() == "MatMul" for operation in graph.get_ops())
    assert products["bfloat16"] - products["int8"] == 2 * 2, "two more in each of two blocks"


@pytest.mark.parametrize(("tower", "number"), [case for case in CASES if case != ("text", 3)])
def test_an_int8_tower_that_computes_something_else_fails_its_check(
    tower: Tower, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the check's inputs say so: each is computed wrongly in a part of the batch at least."""
    pytest.importorskip("nncf")
    source = convert.tower_of(model(), tower)
    mistaken(MISTAKES[tower][number], monkeypatch)
    exact, shape = convert.to_openvino(source), (1, *source.example.shape[1:]) if tower == "image" else None
    program, verdict = convert._write_int8(openvino.Core(), exact, source, shape, tmp_path / "model.xml")
    assert program is None and not verdict.passed


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_that_computes_the_same_is_taken(tower: Tower, precision: Precision, tmp_path: Path) -> None:
    about = convert.convert_tower(openvino.Core(), convert.tower_of(model(), tower), "tiny", precision, tmp_path)
    assert about["precision"] == precision and "note" not in about
