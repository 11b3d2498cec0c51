"""The study of int8 quantises as the package does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize

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
