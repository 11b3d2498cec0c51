"""The interface between an encoder and what executes its towers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from perception_encoder.errors import ConfigError
from perception_encoder.models.config import TextConfig, VisionConfig

RuntimeName = Literal["torch", "openvino"]
Precision = Literal["float32", "bfloat16", "int8"]
RUNTIMES: tuple[RuntimeName, ...] = ("torch", "openvino")
FLOATS: tuple[Precision, ...] = ("float32", "bfloat16")
PRECISIONS: tuple[Precision, ...] = (*FLOATS, "int8")
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A description of a model that is cheaper to read than its weights."""

    name: str
    weights: str
    """Hash of the weights."""
    vision: VisionConfig
    text: TextConfig | None
    logit_scale: float | None
    """The factor of cosine similarities, not its logarithm; None without a text tower."""


class Runtime(Protocol):
    """How and where one model is executed; threads may share it."""

    name: RuntimeName
    precision: Precision
    device: str
    """As torch names devices, such as "cpu" or "cuda:0"."""
    per_core: bool
    """Whether each worker computes on a core of its own, so that work should be split among all."""
    batch_size: int
    """Number of images to compute together."""
    text_batch_size: int
    """Number of texts to compute together."""

    @property
    def workers(self) -> int:
        """Number of threads that should each read, decode and compute a batch."""

    def threads(self, count: int) -> AbstractContextManager[ThreadPoolExecutor]:
        """Return a context that yields an executor with this many threads for such work."""

    def prepare(self, layer: int | None) -> tuple[RuntimeName, Precision]:
        """Make the image tower ready and return what computes it (`used`); `layer`: None for the model's own output."""

    def used(self, layer: int | None, texts: bool = False) -> tuple[RuntimeName, Precision]:
        """Return the runtime and precision of images or texts, if known: torch in float32 for a tower left to torch."""


def used_precision(precision: Precision, output: bool) -> Precision:
    """Return the precision of a model's own `output` or of its tokens, which are never in int8."""
    return precision if output or precision != "int8" else "bfloat16"


def check_choice(runtime: str, precision: str) -> None:
    """Raise ConfigError for an unknown runtime or precision."""
    if runtime not in (AUTO, *RUNTIMES):
        raise ConfigError(f"runtime is {runtime!r}; it must be one of {', '.join((AUTO, *RUNTIMES))}")
    if precision not in (AUTO, *PRECISIONS):
        raise ConfigError(f"precision is {precision!r}; it must be one of {', '.join((AUTO, *PRECISIONS))}")
    if runtime == "torch" and precision == "int8":
        raise ConfigError("int8 needs the runtime openvino; torch computes in float32 or bfloat16")
