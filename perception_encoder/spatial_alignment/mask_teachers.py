"""Mask teachers: models that predict which pixels belong together (section 5, appendix B.3).

scenes      the masks in the data
a SAM 2.1   the paper's teacher, from transformers, with one prompt at each point of a grid; all masks count: bad ones
            and duplicates are not filtered out
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from perception_encoder.errors import DataError, InputError, WeightsUnavailableError, needs_extra, one_line
from perception_encoder.models.checkpoints.find import hub_or_cache
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.missing_weights import REPORTING, check_none_missing, lost_weights, without_kernels
from perception_encoder.store import Store

SCENES = "scenes"
POINTS = 32  # points of SAM's grid along each side of the image: 1,024 prompts
TOGETHER = 64  # prompts per pass
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def mask_tokens(masks: Float[Tensor, "h w P"], grid: tuple[int, int]) -> Float[Tensor, "N P"]:
    """Return masks on a patch grid, N = rows · columns: means over patches, or interpolated if the grid is finer.

    The paper interpolates masks to the student's grid, which reads a few pixels of each patch and misses thin objects
    between them; a mean counts every pixel.
    """
    maps, (rows, columns) = masks.permute(2, 0, 1)[None].float(), grid
    if masks.shape[0] >= rows and masks.shape[1] >= columns:
        return F.adaptive_avg_pool2d(maps, grid)[0].flatten(1).T
    return F.interpolate(maps, grid, mode="bilinear")[0].flatten(1).T


def one_hot_masks(ids: Int[Tensor, "H W"]) -> Float[Tensor, "H W P"]:
    """Return one mask per number that occurs."""
    _, order = ids.unique(return_inverse=True)
    return F.one_hot(order).float()


class Sam:
    """SAM 2.1, prompted with a grid of points; the image is embedded once."""

    def __init__(self, model: Any, points: int = POINTS) -> None:
        """`model`: a `Sam2Model`; `points`: along each side of the image."""
        self.model, self.points = model.eval().requires_grad_(False), points

    @classmethod
    def load(cls, name: str, device: torch.device) -> Sam:
        """Load a directory or a model of the hub, such as `facebook/sam2.1-hiera-large`.

        Raises MissingExtraError without transformers, WeightsUnavailableError if the model cannot be found, and
        CheckpointError if its file lacks weights.
        """
        with needs_extra("spatial", "transformers"):
            from transformers import Sam2Config, Sam2Model
        try:
            with hub_or_cache(name, not Path(name).is_dir()):
                config = without_kernels(Sam2Config.from_pretrained(name))
                loaded: Any = Sam2Model.from_pretrained(name, config=config, **REPORTING)
        except Exception as error:  # names, hubs and files make the library raise anything
            raise WeightsUnavailableError(f"no SAM 2.1 can be loaded from {name!r}: {one_line(error)}") from None
        model, report = loaded
        check_none_missing(name, lost_weights(report))
        return cls(model.to(device))

    @cached_property
    def identity(self) -> str:
        return f"sam {state_hash(self.model.state_dict())} {self.points}"

    @torch.no_grad()
    def masks(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "h w P"]:
        """Return logits at the model's mask resolution: each point's mask or, if unstable, the best rated of three."""
        size = self.model.config.vision_config.backbone_config.image_size[0]
        device = next(self.model.parameters()).device
        pixels = F.interpolate(image[None].to(device).float() / 255, (size, size), mode="bilinear", antialias=True)
        mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, DEVIATION))
        embeddings = self.model.get_image_embeddings((pixels - mean) / deviation)
        logits = []
        for points in grid_points(self.points, size).to(device).split(TOGETHER):
            answered = self.model(
                input_points=points[None, :, None],
                input_labels=torch.ones(1, len(points), 1, dtype=torch.int64, device=device),
                image_embeddings=embeddings,
                multimask_output=False,
            )
            logits.append(answered.pred_masks[0, :, 0].float().cpu())  # (prompts, h, w)
        return torch.cat(logits).permute(1, 2, 0)


def grid_points(points: int, size: int) -> Float[Tensor, "P 2"]:
    """Return the centres (x, y), in pixels, of the grid cells of a square of `size`."""
    middles = (torch.arange(points) + 0.5) * size / points
    rows, columns = torch.meshgrid(middles, middles, indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1)


FORMAT = 2  # increase when images are identified in another way
_REMEDY = "delete it and run `pe data masks` again"


class TeacherCache:
    """Tokens (N, P) by the digest of an image's content and the number of its copy, in half precision."""

    def __init__(self, path: Path, settings: Mapping[str, Any], create: bool = False) -> None:
        """Open a store; with `create`, make it if it is missing.

        Raises DataError for a missing or damaged one, OutputError for one that differs in one of the `settings`.
        """
        self._store = Store(path, settings, remedy=_REMEDY, writable=create)
        self._tokens = self._store.arrays("masks", compressed=True)

    @property
    def identity(self) -> str:
        return str(self._store.settings.get("teacher", ""))

    def close(self) -> None:
        """Let another process write; masks can still be read."""
        self._store.close()

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return _key(*key) in self._tokens

    def get(self, digest: str, copy: int, count: int, name: str) -> Float[Tensor, "N P"]:
        """Return the `count` tokens of an image's copy; InputError with `name` if they are missing or damaged."""
        path = self._store.path
        try:
            tokens = self._tokens.get(_key(digest, copy))
        except DataError as error:
            raise InputError(name, f"its masks are damaged: {error}") from None
        if tokens is None:
            raise InputError(name, f"has no masks in {path}; run `pe data masks` to the end")
        if len(tokens) != count or not tokens.size:
            raise InputError(name, f"its masks in {path} have {len(tokens)} tokens, not {count}; {_REMEDY}")
        return torch.from_numpy(tokens.astype(np.float32))

    def put(self, digest: str, copy: int, tokens: Float[Tensor, "N P"]) -> None:
        self._tokens.put(_key(digest, copy), tokens.to(torch.float16).numpy())


def _key(digest: str, copy: int) -> str:
    return f"{digest}-{copy}"
