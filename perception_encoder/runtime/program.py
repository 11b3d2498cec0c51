"""A compiled tower: an OpenVINO model on the CPU."""

from __future__ import annotations

import io
import logging
from collections import deque
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.errors import OutputError
from perception_encoder.files import digest, file_state, write_bytes
from perception_encoder.models.precision import TOLERANCE
from perception_encoder.runtime.machine import core_count, cpu_flags, float_hint, versions
from perception_encoder.runtime.runtime import Precision
from perception_encoder.vectors import unit_rows

logger = logging.getLogger(__name__)

EXAMPLE = "example.npz"
"""Inputs, and what the tower gave for them when it was converted."""
AGREEMENT = {**TOLERANCE, "int8": TOLERANCE["bfloat16"]}
"""Maximum difference of a unit embedding's values between two compilations."""


def hints(precision: Precision) -> dict[str, Any]:
    """Return OpenVINO's options that change results: the type of activations, and how many beside int8 weights share
    a scale."""
    types = {"INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16"}
    return types | ({"DYNAMIC_QUANTIZATION_GROUP_SIZE": 64} if precision == "int8" else {})


class Program:
    """Computes a batch in requests of a fixed size, or all at once. For one thread at a time."""

    def __init__(
        self,
        core: Any,
        path: Path,
        precision: Precision,
        shape: Sequence[int] | None = None,
        streams: int = 0,
        blob: Path | None = None,
    ) -> None:
        """Compile a file; RuntimeError for one that OpenVINO cannot read.

        Args:
            shape: Of a request's inputs, if its size is fixed.
            streams: Number of requests at the same time, each on its share of the cores; by default one on each core.
            blob: The file that caches the compiled program.
        """
        streams = 1 if shape is None else streams or core_count()
        options: dict[str, Any] = {
            **hints(precision),
            "INFERENCE_PRECISION_HINT": float_hint(precision != "float32"),
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": core_count(),
            "ENABLE_CPU_PINNING": False,  # several processes would share the same cores, and others stay idle
            "CACHE_MODE": "OPTIMIZE_SIZE",  # no weights in an exported program
        }
        compiled = _compile(core, path, shape, options, blob)
        self._requests = [compiled.create_infer_request() for _ in range(streams)]
        self._images = shape[0] if shape else 0

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs, float32; the last request is filled up with its last input."""
        count, images = len(inputs), self._images or len(inputs)
        if more := -count % images:
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], more, axis=0)])
        inputs = np.ascontiguousarray(inputs)
        outputs: list[np.ndarray] = []
        running: deque[Any] = deque()
        # requests take turns: the callbacks of an AsyncInferQueue need Python's lock, which a program that is being
        # deleted holds while it waits for their threads
        for number, part in enumerate(inputs.reshape(-1, images, *inputs.shape[1:])):
            if len(running) == len(self._requests):
                outputs.append(_output(running.popleft()))
            running.append(self._requests[number % len(self._requests)])
            running[-1].start_async([part])
        outputs += map(_output, running)
        return np.concatenate(outputs)[:count]


def activation_bytes(core: Any, path: Path, shape: Sequence[int]) -> int:
    """Estimate the bytes of an input's activations: three of the graph's largest tensors, in float32."""
    model = core.read_model(path)
    model.reshape([1, *shape[1:]])
    sizes = [
        prod(output.shape) for operation in model.get_ops() for output in operation.outputs() if operation.inputs()
    ]
    return 3 * 4 * max(sizes)


def _compile(core: Any, path: Path, shape: Sequence[int] | None, options: dict[str, Any], blob: Path | None) -> Any:
    """Compile a model, or import the blob of the same one, which takes half to a third of the time.

    A blob has no weights: it refers to the model's. It begins with its digest, which says all that it depends on.
    OpenVINO's own cache does not notice damage, and compiles reshaped models again.
    """
    weights = path.with_suffix(".bin")
    device = [core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    made_for = [*map(file_state, (path, weights)), shape, options, device, cpu_flags(), versions()]
    if blob is not None and blob.is_file():
        try:
            content = blob.read_bytes()
            if content[:32] == digest(made_for, content[32:]).encode():
                return core.import_model(io.BytesIO(content[32:]), "CPU", {**options, "WEIGHTS_PATH": str(weights)})
            logger.info("%s is damaged, or of another machine or version: compiling it again", blob)
        except (OSError, RuntimeError) as error:
            logger.info("%s cannot be used: %s", blob, error)
    model = core.read_model(path)
    if shape is not None:
        model.reshape(list(shape))
    compiled = core.compile_model(model, "CPU", options)
    if blob is not None:
        try:
            exported = compiled.export_model().getvalue()
            write_bytes(blob, digest(made_for, exported).encode() + exported)
        except (OutputError, RuntimeError) as error:
            logger.info("it is compiled each time: %s", error)
    return compiled


def _output(request: Any) -> np.ndarray:
    request.wait()
    return request.get_output_tensor(0).data.copy()


def unit_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of two outputs' unit embeddings; of tokens (B, N, D), of their mean."""
    first, second = (unit_rows(values.mean(axis=1) if values.ndim == 3 else values) for values in (found, expected))
    return float(np.abs(first - second).max())
