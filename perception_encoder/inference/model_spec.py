"""Which model to load and how to execute it, as one value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from perception_encoder.errors import ConfigError

if TYPE_CHECKING:
    import torch

PrecisionChoice = Literal["auto", "float32", "bfloat16", "int8"]
RuntimeChoice = Literal["auto", "torch", "openvino"]


@dataclass(frozen=True)
class ModelSpec:
    """A model and how to execute it, for any call that takes a model: see `load` and `Encoder.feature`.

    pe.embed("photos", "photos.parquet", model=pe.ModelSpec("PE-Core-L14-336", precision="int8"))
    """

    name: str | Path = ""
    """By default the default model, or that of an index."""
    device: str | torch.device | None = None
    runtime: str = "auto"
    precision: str = "auto"
    """Also a floating-point type of torch, which other runtimes may lack."""
    dimensions: int | None = None
    layer: int | None = None
    pool: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def of(cls, model: str | Path | ModelSpec | None, keywords: ModelSpec) -> ModelSpec:
        """Return the spec of a call's model and keywords; those replace a given spec's unless they are the defaults."""
        if not isinstance(model, ModelSpec):
            return replace(keywords, name=model or "")
        changed: dict[str, Any] = {name: value for name, value in vars(keywords).items() if value != getattr(cls, name)}
        return replace(model, **changed)

    def with_dtype(self, dtype: torch.dtype | None) -> ModelSpec:
        """Return this spec with the precision of a torch type; ConfigError if it has another already."""
        name = self.precision if dtype is None else str(dtype).removeprefix("torch.")
        if self.precision not in ("auto", name):
            raise ConfigError(f"dtype is {name}, but precision is {self.precision}; give one of them")
        return replace(self, precision=name)


DEFAULT = ModelSpec()
