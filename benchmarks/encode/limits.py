"""What the bare matrix products of a tower's blocks allow, each layer with weights of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.encode.case import Case, Contender, Run, fast_type
from perception_encoder.models.config import VisionConfig
from perception_encoder.preprocess.tokenizer import trim
from perception_encoder.runtime.machine import core_count, float_hint

WHO = "limit: bare products"


def contenders(case: Case) -> list[Contender]:
    """Products of all inputs together in torch; as ours in OpenVINO: texts together, many images on a core each."""
    name, dtype = fast_type()
    found = [Contender(WHO, "torch", name, _in_torch(case, dtype), None)]
    for precision in (name, "int8"):
        found.append(Contender(WHO, "OpenVINO", precision, _in_openvino(case, precision), None))
    return found


def sizes(case: Case) -> tuple[int, int, int, int, int]:
    """Return the tokens of an input, the width, the heads, the hidden width and the depth."""
    config = case.config
    if isinstance(config, VisionConfig):
        tokens, hidden = config.grid**2 + int(config.class_token), config.mlp_width
    else:
        tokens, hidden = trim(case.inputs).shape[1], 4 * config.width
    return tokens, config.width, config.heads, hidden, config.depth


def _weights(case: Case) -> Iterator[list[np.ndarray]]:
    """Yield each layer's weights, (outputs, inputs): for queries, keys and values; the output; the MLP."""
    _, width, _, hidden, depth = sizes(case)
    generator = np.random.default_rng(0)
    for _ in range(depth):
        shapes = ((3 * width, width), (width, width), (hidden, width), (width, hidden))
        yield [generator.standard_normal(shape, np.float32) / shape[1] ** 0.5 for shape in shapes]


def _in_torch(case: Case, dtype: torch.dtype) -> Run:
    count = len(case.inputs)
    tokens, width, heads, _, _ = sizes(case)
    layers = [[torch.from_numpy(weight).to(dtype) for weight in weights] for weights in _weights(case)]
    x = torch.randn(count * tokens, width).to(dtype)
    queries, keys = (torch.randn(count * heads, tokens, width // heads).to(dtype) for _ in range(2))

    @torch.inference_mode()
    def run() -> np.ndarray:
        y = x
        for projection, out, first, second in layers:
            F.linear(y, projection)
            torch.bmm(torch.bmm(queries, keys.transpose(1, 2)), keys)
            y = F.linear(F.linear(F.linear(y, out), first), second)
        return y[:1, :1].float().numpy()

    return run


def _in_openvino(case: Case, precision: str) -> Run:
    """Compile the products; in `int8` linear layers read and write int8, as no tower can; attention is bfloat16."""
    import openvino

    one_by_one = case.tower == "image"
    count = 1 if one_by_one else len(case.inputs)
    streams = core_count() if one_by_one and len(case.inputs) > core_count() // 4 else 1
    options = {
        "INFERENCE_PRECISION_HINT": float_hint(precision != "float32"),
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": core_count(),
        "ENABLE_CPU_PINNING": False,
    }
    model = _products(case, count, precision == "int8")
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(model, "CPU", options), streams)  # type: ignore[arg-type]
    tokens, width, heads, _, _ = sizes(case)
    generator = np.random.default_rng(1)
    inputs = [
        generator.standard_normal((count * tokens, width), np.float32),
        *(generator.standard_normal((count, heads, tokens, width // heads), np.float32) / 4 for _ in range(3)),
    ]

    def run() -> np.ndarray:
        for _ in range(len(case.inputs) // count):
            queue.start_async(inputs)
        queue.wait_all()
        return np.zeros(1)

    return run


def _products(case: Case, count: int, int8: bool) -> Any:
    from openvino import Model, Type
    from openvino import opset13 as op

    tokens, width, heads, _, _ = sizes(case)
    shape = [count, heads, tokens, width // heads]
    x = op.parameter([count * tokens, width], np.float32)
    q, k, v = (op.parameter(shape, np.float32) for _ in range(3))
    levels = [np.float32(edge) for edge in (-4, 4, -4, 4)]

    def narrow(values: Any) -> Any:
        return op.fake_quantize(values, *levels, 256) if int8 else values

    def linear(values: Any, weight: np.ndarray) -> Any:
        if not int8:
            return op.matmul(values, op.constant(weight), False, True)
        scale = np.abs(weight).max(axis=1, keepdims=True) / 127
        stored = op.constant(np.round(weight / scale).astype(np.int8))
        product = op.matmul(values, op.multiply(op.convert(stored, Type.f32), op.constant(scale)), False, True)
        return narrow(product)

    y, attended, results = narrow(x), q, []
    for projection, out, first, second in _weights(case):
        results.append(op.result(linear(y, projection)))
        attended = op.matmul(op.matmul(attended, k, False, True), v, False, False)
        y = linear(linear(linear(y, out), first), second)
    return Model([*results, op.result(y), op.result(attended)], [x, q, k, v], "products")
