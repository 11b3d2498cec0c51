"""The encoders that are compared: the built-in one, and three alignments of it that differ in their teachers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perception_encoder.models.registry import BUILTIN
from perception_encoder.progress import Track, untracked
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.recipes import spatial_builtin
from perception_encoder.spatial_alignment.run import SpatialRun, align_spatially

CORE, OWN, MASKS, BOTH = "Core", "aligned to its own layer", "aligned to masks", "aligned to both"
ALIGNED = (OWN, MASKS, BOTH)


@dataclass(frozen=True, kw_only=True)
class Alignments:
    """How the three are trained."""

    steps: int = 500
    batch_size: int = 32
    side: int = 224

    def config(self, name: str) -> SpatialConfig:
        """The run of one."""
        base = replace(
            spatial_builtin(),
            steps=self.steps,
            batch_size=self.batch_size,
            warmup=min(self.steps, spatial_builtin().warmup),
            image_size=self.side,
            validation=None,
        )
        return {OWN: replace(base, masks=None), MASKS: replace(base, core_weight=0.0), BOTH: base}[name]


def find_encoder(
    name: str, runs: Path, data: Sequence[Path], alignments: Alignments, track: Track = untracked
) -> str | Path:
    """Return an encoder's name or file; an alignment is trained, or goes on. Raises what `align_spatially` does."""
    if name == CORE:
        return BUILTIN
    out = runs / name.replace(" ", "-")
    if not (out / SpatialRun.weights).is_file():
        align_spatially(alignments.config(name), data, out, track)
    return out / SpatialRun.weights
