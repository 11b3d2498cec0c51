"""The choice of a model and of its execution, as one value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast

from perception_encoder.errors import ConfigError

if TYPE_CHECKING:
    import torch

PrecisionChoice = Literal["auto", "float32", "bfloat16", "int8"]
RuntimeChoice = Literal["auto", "torch", "openvino"]
PoolChoice = Literal["attn", "cls", "mean", "tokens"]
Decoding = Literal["exact", "reduced"]


class ModelKeywords(TypedDict, total=False):
    """The fields of a `ModelSpec` that calls take as keywords beside a model: see `load`."""

    runtime: RuntimeChoice
    precision: PrecisionChoice
    dimensions: int | None
    layer: int | None
    pool: PoolChoice | None
    decoding: Decoding | None
    trust_remote_code: bool


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
    decoding: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def of(
        cls,
        model: str | Path | ModelSpec | None,
        device: str | torch.device | None = None,
        **keywords: Unpack[ModelKeywords],
    ) -> ModelSpec:
        """Return the spec of a call's model and keywords; those replace a given spec's unless they are the defaults."""
        spec = model if isinstance(model, ModelSpec) else cls(model or "")
        given: dict[str, Any] = {"device": device, **keywords}
        return replace(spec, **{name: value for name, value in given.items() if value != getattr(cls, name, None)})

    @property
    def dtype(self) -> torch.dtype | None:
        """The precision as torch's type; None for "auto"."""
        import torch

        return None if self.precision == "auto" else cast("torch.dtype", getattr(torch, self.precision))

    def with_dtype(self, dtype: torch.dtype | None) -> ModelSpec:
        """Return this spec with the precision of a torch type; ConfigError if it has another already."""
        name = self.precision if dtype is None else str(dtype).removeprefix("torch.")
        if self.precision not in ("auto", name):
            raise ConfigError(f"dtype is {name}, but precision is {self.precision}; give one of them")
        return replace(self, precision=name)


DEFAULT = ModelSpec()
