"""The study of int8 quantises as the package does, and its tables state what is lost with its interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.speed_tables import int8_tables
from perception_encoder.models.checkpoints.weights import load_model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import BUILTIN, MODELS

VISION = VisionConfig(image_size=32, patch_size=16, width=32, depth=2, heads=2, mlp_width=64, output_dim=24)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("changes", [{}, {"ends": True}, {"floats": ()}])
def test_only_changed_methods_differ_from_the_packages(changes: dict[str, object], tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    from benchmarks.int8 import quantize_with
    from perception_encoder.runtime.convert import to_openvino, tower_of
    from perception_encoder.runtime.quantization import calibration_pixels, quantize

    model = CLIP(VISION, TextConfig(context_length=6, width=32, depth=2, heads=2, output_dim=24), "tiny")
    initialize(model, torch.Generator().manual_seed(0))
    exact = to_openvino(tower_of(model.eval(), "image"))
    pixels = calibration_pixels(32, 32)
    ours, other = quantize(exact.clone(), "static", pixels), quantize_with(exact, VISION, **changes)  # type: ignore[arg-type]

    def rounded(found: object) -> int:
        return sum(node.get_type_name() == "FakeQuantize" for node in found.get_ops())  # type: ignore[attr-defined]

    core = openvino.Core()
    outputs = [core.compile_model(one, "CPU")(pixels[:4])[0] for one in (ours, other)]
    assert np.array_equal(*outputs) == (not changes)
    assert (rounded(other) - rounded(ours) > 0) == (changes == {"floats": ()})
    assert (rounded(other) - rounded(ours) < 0) == (changes == {"ends": True})


def test_the_built_in_model_has_its_own_weights() -> None:
    for library in ("openvino", "nncf"):
        pytest.importorskip(library)
    from benchmarks.int8 import model_of

    found, own = (weight_hash(model) for model in (model_of(MODELS[BUILTIN]), load_model(BUILTIN)))
    assert found == own


def test_tables_give_ratios_and_intervals() -> None:
    tower = {"cosine": 0.99971, "kept neighbours": 1.0}
    row = {"metric": "R@1", "n": 1649, "float32": 0.577, "int8": 0.575, "difference": -0.002}
    ways = {"bfloat16": {"cosine": 0.99999, "speeds": [20.0] * 3}, "static": {"cosine": 0.9997, "speeds": [30.0] * 3}}
    tables = int8_tables(
        {
            "towers": {"models": {"PE-Core-T16-384": {"image": tower, "text": tower}}},
            "methods": {"models": {"PE-Core-T16-384": ways}},
            "builtin": {"rows": [{**row, "task": "caltech101, zero-shot", "interval": [-0.006, 0.001]}]},
            "language": {"rows": [{**row, "task": "scenes", "interval": None}]},
        }
    )
    similarity, scores, methods = tables.values()
    assert similarity[1] == ("PE-Core-T16-384", "0.99971 (100%)", "0.99971 (100%)")
    assert scores[1] == ("caltech101, zero-shot: R@1", "1,649", "57.7", "57.5", "-0.20 (-0.60 to +0.10)")
    assert methods == [("method", "T16-384"), ("bfloat16", "1.00 (0.99999)"), ("static", "1.50 (0.99970)")]
