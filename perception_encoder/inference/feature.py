"""What to compute of a model: its own output, or a layer's features and their pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perception_encoder.errors import ConfigError
from perception_encoder.runtime.towers import Towers

if TYPE_CHECKING:
    from perception_encoder.models.external import Role

POOLS = ("attn", "cls", "mean", "tokens")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """The features to take from a model; `Encoder.feature` fills in the defaults and checks them."""

    layer: int
    """0-based block of the vision tower whose tokens are taken; the last one's go through the final norm. -1 for a
    model of another library whose layers are not used."""
    pool: str
    """"attn" (the model's own output after the last layer), "cls" (class token), "mean" or "tokens" (patch tokens, row
    by row)."""
    normalize: bool = True
    """Unit length. A video's embedding is the mean of its frames' unnormalized embeddings, made unit length."""
    frames: int = 8
    """Uniform frames of a video."""
    role: Role = "document"
    """The inputs' role, for models with prompts; None for their library's default."""

    @classmethod
    def of(cls, towers: Towers, layer: int | None, pool: str | None, normalize: bool, frames: int) -> Feature:
        """Return the features to take of a model, with defaults filled in: see `Encoder.feature`."""
        if frames < 1:
            raise ConfigError(f"frames is {frames}; a video needs at least 1")
        depth = towers.depth
        if not depth:
            if layer is not None or pool not in (None, "attn"):
                raise ConfigError(f"{towers.name} has embeddings only; omit layer and pool")
            return cls(layer=-1, pool="attn", normalize=normalize, frames=frames)
        index = resolve_layers([-1 if layer is None else layer], depth, towers.name)[0]
        pooled_here = towers.has_output and index == depth - 1
        pool = pool or ("attn" if pooled_here else "mean")
        if pool not in POOLS:
            raise ConfigError(f"pool is {pool!r}; it must be one of {', '.join(POOLS)}")
        if pool == "attn" and not pooled_here:
            where = f"has it after layer {depth - 1} only" if towers.has_output else "has none"
            raise ConfigError(f"no pool 'attn' after layer {index}: {towers.name} {where}; use mean, cls or tokens")
        if pool == "cls" and not towers.has_class_token:
            raise ConfigError(f"{towers.name} has no class token; use pool mean or tokens")
        return cls(layer=index, pool=pool, normalize=normalize, frames=frames)

    @property
    def executed(self) -> int | None:
        """The layer as a `Runtime` counts it: None for the model's own output."""
        return None if self.pool == "attn" else self.layer


def resolve_layers(layers: Sequence[int] | None, depth: int, name: str) -> list[int]:
    """Return layers 0-based, ascending and unique; negative ones count from the end, None means all.

    ConfigError if one does not exist, and for no layers.
    """
    for layer in layers or ():
        if not -depth <= layer < depth:
            raise ConfigError(f"layer {layer} does not exist; {name} has layers 0 to {depth - 1}")
    if layers is not None and not layers:
        raise ConfigError(f"no layer was given; {name} has layers 0 to {depth - 1}")
    return list(range(depth)) if layers is None else sorted({layer % depth for layer in layers})
