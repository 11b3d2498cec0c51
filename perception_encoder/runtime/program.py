"""A compiled tower: an OpenVINO model on the CPU, for inputs of one shape or of any length."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.runtime.runtime import Precision
from perception_encoder.vectors import unit_rows

EXAMPLE = "example.npz"
"""Inputs, and what the tower gave for them when it was converted."""
AGREEMENT: dict[Precision, float] = {"float32": 5e-6, "bfloat16": 5e-3, "int8": 5e-3}
"""Maximum difference of a unit embedding's values between two compilations."""
_HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}


class Program:
    """Runs one request at a time."""

    def __init__(self, core: Any, path: Path, precision: Precision, shape: Sequence[int] | None = None) -> None:
        """`shape`: of the inputs; by default as the model says, which may be any.

        Raises RuntimeError for a file that OpenVINO cannot read.
        """
        model = core.read_model(path)
        if shape is not None:
            model.reshape(list(shape))
        # one stream: it is the fastest beside decoding threads, and a batch's result cannot depend on the stream
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # several processes would share the same cores, and others stay idle
        }
        if limit := os.environ.get("OMP_NUM_THREADS", ""):
            options["INFERENCE_NUM_THREADS"] = int(limit)
        self._request = core.compile_model(model, "CPU", options).create_infer_request()

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the output, float32."""
        found: np.ndarray = self._request.infer([np.ascontiguousarray(inputs)])[0]
        return found.copy()


def unit_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of two outputs' unit embeddings; of tokens (B, N, D), of their mean."""
    first, second = (unit_rows(values.mean(axis=1) if values.ndim == 3 else values) for values in (found, expected))
    return float(np.abs(first - second).max())
