"""Convert towers from torch to OpenVINO, and compare them with torch."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from perception_encoder.errors import ModelError, PerceptionEncoderError, one_line
from perception_encoder.models.checkpoints.weights import Model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.layers import Attention
from perception_encoder.models.precision import TOLERANCE
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import to_float
from perception_encoder.runtime.cache import MODEL, Tower
from perception_encoder.runtime.machine import core_count
from perception_encoder.runtime.program import EXAMPLE, Program, unit_difference
from perception_encoder.runtime.quantization import (
    Method,
    Verdict,
    calibration_ids,
    calibration_pixels,
    check,
    check_ids,
    check_images,
    quantize,
)
from perception_encoder.runtime.requests import measures, shortest
from perception_encoder.runtime.runtime import Precision
from perception_encoder.runtime.torch_towers import layer_tokens

if TYPE_CHECKING:
    import openvino


class ImageTower(nn.Module):
    """Pixels (B, 3, H, W), uint8, to the model's output (B, D), or with a `layer` to its tokens (B, P + N, D)."""

    def __init__(self, visual: VisionTransformer, layer: int | None) -> None:
        super().__init__()
        self.visual, self.layer = visual, layer

    def forward(self, pixels: Tensor) -> Tensor:
        scaled = to_float(pixels)
        if self.layer is None:
            return self.visual(scaled)
        return torch.cat(layer_tokens(self.visual, scaled, self.layer), dim=1)


@dataclass(frozen=True)
class Source:
    """A tower in torch, and inputs of the kind that it takes."""

    tower: Tower
    module: nn.Module
    example: np.ndarray
    """A small batch."""
    shape: tuple[int, ...]
    """Of the input; -1 for any number."""
    check_inputs: Callable[[], np.ndarray]
    """Returns the inputs that an int8 tower is checked on."""
    calibration: Callable[[], Iterable[np.ndarray]]
    """Returns the inputs that calibrate an int8 tower's ranges."""
    others: Sequence[np.ndarray] = ()
    """Batches of other shapes than the example's, for which the converted tower must be right too."""

    @torch.inference_mode()
    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Return torch's output in float32."""
        return self.module(torch.from_numpy(inputs)).numpy()


def convert_tower(
    core: openvino.Core, source: Source, name: str, precision: Precision, directory: Path
) -> dict[str, Any]:
    """Write a tower of a model, `name`, to a directory; return what the cache stores about it.

    An int8 tower that fails its check is written in bfloat16, with a note. Raises ModelError for a tower that OpenVINO
    does not take, and if a float one differs from torch by more than `TOLERANCE`.
    """
    try:
        return _convert_tower(core, source, name, precision, directory)
    except (OSError, PerceptionEncoderError):
        raise
    except Exception as error:  # what another library's model makes a tracer, OpenVINO and nncf raise is open-ended
        reason = one_line(error.__context__ or error, first=True)  # OpenVINO hides the tracer's
        raise ModelError(f"OpenVINO does not take its {source.tower} tower: {reason}") from error


def _convert_tower(
    core: openvino.Core, source: Source, name: str, precision: Precision, directory: Path
) -> dict[str, Any]:
    expected = source.run(source.example)
    if not np.isfinite(expected).all():
        raise ModelError(f"{name} gives NaN or infinity: its weights are bad")
    for module in source.module.modules():
        if isinstance(module, Attention):
            module.one_product = precision == "int8"
    exact, shape = to_openvino(source), (1, *source.example.shape[1:]) if source.tower == "image" else None
    about: dict[str, Any] = {}
    if precision == "int8":
        program, verdict = _write_int8(core, exact, source, shape, directory / MODEL)
        about["check"] = reason = str(verdict)
        if program is not None and source.tower == "image" and measures():
            speeds = _speeds(core, exact, program, source)
            if speeds["int8"] < speeds["bfloat16"]:
                program = None
                reason = "{int8:.1f} images/s on this CPU, and {bfloat16:.1f} in bfloat16".format(**speeds)
        if program is not None:
            found = program(source.example)
            np.savez(directory / EXAMPLE, inputs=source.example, outputs=found)
            difference = unit_difference(found, expected)
            return {**about, "precision": precision, "difference": difference, "cosine": verdict.cosine}
        precision = "bfloat16"
        about["note"] = f"its {source.tower} tower stays in bfloat16; in int8: {reason}"
    _save(exact, directory / MODEL, half=precision != "float32")
    program = Program(core, directory / MODEL, precision, shape)
    found = program(source.example)
    pairs = [(found, expected), *((program(other), source.run(other)) for other in source.others)]
    difference, limit = float(np.max([unit_difference(*pair) for pair in pairs])), TOLERANCE[precision]
    if not difference <= limit:
        raise ModelError(f"in {precision} OpenVINO differs from torch by {difference:.1e}, more than {limit:.0e}")
    np.savez(directory / EXAMPLE, inputs=source.example, outputs=found)
    return {**about, "precision": precision, "difference": difference}


def _write_int8(
    core: openvino.Core, exact: openvino.Model, source: Source, shape: tuple[int, ...] | None, path: Path
) -> tuple[Program | None, Verdict]:
    """Write a tower in int8, with ranges if that passes the check; return it, or None if it fails, and the verdict."""
    inputs = source.check_inputs()
    expected = np.concatenate([source.run(part) for part in np.array_split(inputs, max(1, len(inputs) // 4))])
    methods: tuple[Method, ...] = ("static", "weights")
    for method in methods:
        samples = source.calibration() if method == "static" else ()
        _save(quantize(exact.clone(), method, samples), path)
        program = Program(core, path, "int8", shape)
        verdict = check(program(inputs), expected)
        if verdict.passed:
            return program, verdict
        del program  # it may hold the file that the next one is written to
    return None, verdict


def _speeds(core: openvino.Core, exact: openvino.Model, int8: Program, source: Source) -> dict[str, float]:
    """Return images a second in int8 and in bfloat16, one image on each core, called in turn."""
    images = np.resize(source.example, (core_count(), *source.example.shape[1:]))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / MODEL
        _save(exact, path)
        program = Program(core, path, "bfloat16", (1, *images.shape[1:]))
        seconds = shortest({"int8": partial(int8, images), "bfloat16": partial(program, images)}, rounds=3)
    return {name: len(images) / taken for name, taken in seconds.items()}


def _save(model: openvino.Model, path: Path, half: bool = True) -> None:
    """Write a model; `half`: its float32 weights as float16. Raises OSError."""
    import openvino

    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # "basic_ios::clear: iostream error"
        raise OSError("OpenVINO failed to write it; is the disk full?") from error


def tower_of(model: Model, tower: Tower, layer: int | None = None, size: tuple[int, int] | None = None) -> Source:
    """Return a tower of a float32 model on the CPU, with examples of its input."""
    if tower == "text":
        assert isinstance(model, CLIP)
        length = model.text.config.context_length
        checks, calibration = partial(check_ids, length), partial(calibration_ids, length)
        example = example_ids(length)
        return Source(tower, model.text, example, (-1, -1), checks, calibration, [example[1:, :-1]])
    visual = model.visual if isinstance(model, CLIP) else model
    height, width = size or (visual.config.image_size,) * 2
    example, check_inputs = example_pixels(2, height, width), partial(check_images, height, width)
    ranges = partial(calibration_pixels, height, width)
    return Source(tower, ImageTower(visual, layer), example, (-1, *example.shape[1:]), check_inputs, ranges)


def to_openvino(source: Source) -> openvino.Model:
    """Trace a tower and convert it: float32 weights, any batch size."""
    import openvino

    kind = openvino.Type(source.example.dtype)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer reads every property, also deprecated ones
        inputs: Any = [(openvino.PartialShape(list(source.shape)), kind)]
        return openvino.convert_model(
            source.module.eval(), example_input=torch.from_numpy(source.example), input=inputs
        )


def example_pixels(count: int, height: int, width: int) -> np.ndarray:
    """Return images of waves of several lengths and colours: uint8 (count, 3, height, width), of integers only."""
    image, channel, row, column = np.ogrid[:count, :3, :height, :width]
    waves = (row * (3 + image) + column * (5 + 2 * channel)) * (1 + (row * column >> 9) % 3)
    return np.ascontiguousarray(waves % 256).astype(np.uint8)


def example_ids(length: int) -> np.ndarray:
    """Return token ids as texts have them: int64 (2, T), the end token highest in each row."""
    count = min(length, 9)
    ids = np.arange(2 * count, dtype=np.int64).reshape(2, count) * 1009 % 40_000 + 300
    ids[:, 0], ids[0, -1] = 49406, 49407
    ids[1, count // 2], ids[1, count // 2 + 1 :] = 49407, 0
    return ids
