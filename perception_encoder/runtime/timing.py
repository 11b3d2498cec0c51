"""Time the runtimes on two blocks of a vision transformer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from perception_encoder.models.config import VisionConfig
from perception_encoder.models.initialization import initialize
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.runtime.convert import example_pixels, to_openvino, tower_of
from perception_encoder.runtime.machine import core_count
from perception_encoder.runtime.program import Program
from perception_encoder.runtime.quantization import quantize
from perception_encoder.runtime.requests import shortest
from perception_encoder.runtime.runtime import FLOATS
from perception_encoder.runtime.torch_towers import TorchTowers

ROUNDS = 5


def measure_speeds(int8: bool = False) -> dict[str, float]:
    """Return images a second by "RUNTIME PRECISION", the best of a few rounds, call by call in turn.

    `int8`: compare OpenVINO's int8 with its own floats, instead of with torch.
    """
    import openvino

    count = max(4, core_count())  # OpenVINO computes an image on each core
    config = VisionConfig(image_size=224, patch_size=16, width=768, depth=2, heads=12, mlp_width=3072, output_dim=1024)
    tower = VisionTransformer(config)
    initialize(tower, torch.Generator().manual_seed(0))
    tower.eval()
    pixels = example_pixels(count, 224, 224)
    cpu = torch.device("cpu")
    calls: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.xml"
        shape = (1, *pixels.shape[1:])
        converted = to_openvino(tower_of(tower, "image"))
        openvino.save_model(converted, path, compress_to_fp16=False)
        core = openvino.Core()
        if int8:
            small = Path(directory) / "int8.xml"
            openvino.save_model(quantize(converted, "static", pixels), small)
            calls["openvino int8"] = partial(Program(core, small, "int8", shape), pixels)
        for precision in FLOATS:
            calls[f"openvino {precision}"] = partial(Program(core, path, precision, shape), pixels)
        for precision in () if int8 else FLOATS:
            dtype = getattr(torch, precision)
            copy = VisionTransformer(config)
            copy.load_state_dict(tower.state_dict())
            towers = TorchTowers(copy.eval().to(dtype), cpu, dtype)
            calls[f"torch {precision}"] = partial(towers.embed_pixels, pixels, 1, "attn")
        seconds = shortest(calls, ROUNDS)
    return {name: count / best for name, best in seconds.items()}
