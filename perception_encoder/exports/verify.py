"""Compare the outputs of an exported file with torch's, within a tolerance by its precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import cosine_similarity

from perception_encoder.errors import OutputError
from perception_encoder.runtime.quantization import LEAST_COSINE
from perception_encoder.runtime.runtime import Precision

TOLERANCE = 1e-3
"""Maximum difference from torch, relative to the largest value."""


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """A model, or a tower of one, in a file of `export_onnx` or `export_openvino`."""

    path: str
    """Of OpenVINO, the .xml file; its weights are in the .bin file beside it."""
    model: str
    """The model's name, or a head's task and encoder."""
    precision: Precision
    difference: float | None
    """Maximum difference from torch in float32: of ONNX relative to the largest value, and None in int8 or without
    onnxruntime; of OpenVINO between the values of unit embeddings."""
    cosine: float | None = None
    """Minimum cosine similarity of embeddings in int8 with torch's in float32, of a fixed set; None for others."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def verify(name: str, found: Tensor, expected: Tensor, precision: Literal["float32", "int8"] = "float32") -> float:
    """Return the difference of a file's outputs from torch's, relative to the largest value; in int8, their cosine.

    Raises OutputError for more than `TOLERANCE`, or in int8 for a minimum cosine similarity below 0.999.
    """
    if precision == "int8":
        cosine = float(cosine_similarity(found, expected, dim=-1).min())
        if not cosine >= LEAST_COSINE:
            raise OutputError(
                f"{name} in int8 has a cosine similarity of {cosine:.4f} with torch, below {LEAST_COSINE}; "
                "export it without int8"
            )
        return cosine
    exact = expected.double()
    difference = float((found - exact).abs().max() / exact.abs().max().clamp_min(1e-6)) if exact.numel() else 0.0
    if not difference < TOLERANCE:
        raise OutputError(f"{name} differs from torch by {difference:.1e}, more than {TOLERANCE}")
    return difference
