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
    """The fields of a `ModelSpec` that calls take as keywords beside a model."""

    runtime: RuntimeChoice
    precision: PrecisionChoice
    dimensions: int | None
    layer: int | None
    pool: PoolChoice | None
    decoding: Decoding | None
    trust_remote_code: bool


@dataclass(frozen=True)
class ModelSpec:
    """A model and how to execute it, for any call that takes a model.

    Examples:
        >>> spec = pe.ModelSpec("PE-Core-L14-336", precision="int8")
        >>> pe.embed("photos", "photos.parquet", model=spec)
    """

    name: str | Path = ""
    """As `pe.load` takes it; by default the default model, or that of an index."""
    device: str | torch.device | None = None
    """By default a CUDA GPU if there is one."""
    runtime: str = "auto"
    """"torch", or "openvino" (extra `fast`), which only computes on a CPU; by default the fastest there, as measured
    once on each machine. Torch alone computes layers, images of models that take them in several sizes, and static
    embeddings of texts."""
    precision: str = "auto"
    """"float32", "bfloat16", by default if it is fast, "int8", OpenVINO's, or another floating-point type, torch's.
    Other libraries' embeddings are computed in float32 by default."""
    dimensions: int | None = None
    """Length of vectors, for models trained for it (Matryoshka)."""
    layer: int | None = None
    """See `Encoder.feature`."""
    pool: str | None = None
    """See `Encoder.feature`."""
    decoding: str | None = None
    """See `Encoder`."""
    trust_remote_code: bool = False
    """Run code that comes with a model of (sentence-)transformers."""

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
