"""The paper's detection backbone: a PE tower for large images, most of whose blocks attend within windows.

As in ViTDet (Li et al., 2022), a few blocks attend globally. The position table of a smaller image is tiled over the
grid instead of resampled ("abswin", Bolya et al., 2023). Rotary positions count within a window; over the whole grid
they are scaled to a window's side, so that all blocks see angles that they were trained with.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from perception_encoder.errors import ConfigError, ShapeError
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.layers import Block, Transformer, rope_table
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.records import Checked, CountOrZero, Range

Patches = Annotated[int, Range(at_least=1, at_most=1024)]


@dataclass(frozen=True, kw_only=True)
class WindowConfig(Checked):
    """A backbone like ViTDet's, for large images; defaults are those of PE-Core-G and PE-Spatial-G."""

    size: Patches = 32
    """Patches along a window's side."""
    global_blocks: tuple[CountOrZero, ...] = (12, 24, 36, 49)
    """Blocks that attend to all patches, 0-based."""
    patch_size: Patches = 16
    """Pixels of a patch's side after resampling."""
    tile: Patches | None = None
    """Patches along a side of the resampled, then tiled position table; by default the encoder's."""
    span: Patches | None = None
    """Rotary positions along a window's side, and along the image's; by default one per patch of a window."""


class ViTDetBackbone(nn.Module):
    """Images (B, 3, H, W) to the last block's map (B, D, h, w), without a class token or a final norm.

    Parameters have the published names of Lang and Spatial models.
    """

    def __init__(self, config: VisionConfig, image_size: int, windows: WindowConfig) -> None:
        """`config`: the pretrained tower with the patches of `windows`; its `image_size` fixes the tile of positions.

        `image_size`: pixels of the training square. Raises ConfigError for sizes that are not whole patches, and for a
        block that does not exist.
        """
        super().__init__()
        if image_size % config.patch_size:
            raise ConfigError(f"image_size is {image_size}; it must be a multiple of the patch, {config.patch_size}")
        if wrong := [block for block in windows.global_blocks if block >= config.depth]:
            raise ConfigError(f"global block {wrong[0]} does not exist; the tower has blocks 0 to {config.depth - 1}")
        self.config = dataclasses.replace(config, attention_pool=False, final_norm=False, output_dim=None)
        self.image_size, self.windows, self.span = image_size, windows, windows.span or windows.size
        width, patch = config.width, config.patch_size
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(int(config.class_token) + config.grid**2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.depth, config.heads, config.mlp_width, config.layer_scale)

    def forward(
        self, x: Float[Tensor, "B 3 H W"], branches: Float[Tensor, "L 2 B"] | None = None
    ) -> Float[Tensor, "B D h w"]:
        """Return the last block's map. `branches`: factors of the residual branches, drawn by `drop_path`.

        Raises ShapeError unless both sides are multiples of the patch.
        """
        patch = self.config.patch_size
        if x.shape[-2] % patch or x.shape[-1] % patch:
            raise ShapeError(f"images are {x.shape[-2]}x{x.shape[-1]}; both sides must be multiples of {patch}")
        maps = self.conv1(x).permute(0, 2, 3, 1)  # (B, h, w, D)
        grid = maps.shape[1], maps.shape[2]
        maps = self.ln_pre(maps + self.positions(grid))
        for number, block in enumerate(self.transformer.resblocks):
            assert isinstance(block, Block)
            factors = None if branches is None else branches[number]
            window = None if number in self.windows.global_blocks else self.windows.size
            maps = self.transformer.recomputed(self._run, block, maps, window, factors)
        return maps.permute(0, 3, 1, 2).contiguous()

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "h w D"]:
        """Return the position table, tiled over a grid, without the class token's row."""
        side = self.config.grid
        table = self.positional_embedding[int(self.config.class_token) :].unflatten(0, (side, side))
        rows, columns = (-(-length // side) for length in grid)
        return table.repeat(rows, columns, 1)[: grid[0], : grid[1]]

    def _run(self, block: Block, maps: Tensor, window: int | None, branches: Tensor | None) -> Tensor:
        normed = block.ln_1(maps)
        if window is None:
            step = self.span * self.config.patch_size / self.image_size
            attended = block.attn(normed.flatten(1, 2), self._rope(maps.shape[1], maps.shape[2], step, maps.device))
        else:
            parts = to_windows(normed, window)
            inside = block.attn(parts.flatten(1, 2), self._rope(window, window, self.span / window, maps.device))
            attended = from_windows(inside.unflatten(1, (window, window)), maps.shape[1], maps.shape[2]).flatten(1, 2)
        return block.join(maps.flatten(1, 2), attended, branches).unflatten(1, maps.shape[1:3])

    def _rope(self, rows: int, columns: int, step: float, device: torch.device) -> Tensor | None:
        if not self.config.rope:
            return None
        return rope_table((rows, columns), self.config.width // self.config.heads, False, device, step)


def vitdet_backbone(tower: VisionTransformer, image_size: int, windows: WindowConfig) -> ViTDetBackbone:
    """Make the backbone of a pretrained tower, with copies of its weights.

    For another patch size the patch kernel is resampled bicubically and the position table is unchanged: one of 32 x 32
    patches of 14 px becomes a tile of 512 px with patches of 16. Raises what `ViTDetBackbone` does.
    """
    patch_size = windows.patch_size
    config = dataclasses.replace(tower.config, patch_size=patch_size, image_size=tower.config.grid * patch_size)
    backbone = ViTDetBackbone(config, image_size, windows)
    weights = {name: tensor for name, tensor in tower.state_dict().items() if name in backbone.state_dict()}
    kernel = weights["conv1.weight"]
    if kernel.shape[-1] != patch_size:
        kernel = F.interpolate(
            kernel, (patch_size, patch_size), mode="bicubic", antialias=kernel.shape[-1] > patch_size
        )
    backbone.load_state_dict({**weights, "conv1.weight": kernel})
    return backbone


def to_windows(maps: Float[Tensor, "B h w D"], size: int) -> Float[Tensor, "W s s D"]:
    """Cut maps into windows, image by image and row by row, padding with zeros on the right and below."""
    batch, height, width, dim = maps.shape
    padded = F.pad(maps, (0, 0, 0, -width % size, 0, -height % size))
    rows, columns = padded.shape[1] // size, padded.shape[2] // size
    return padded.view(batch, rows, size, columns, size, dim).transpose(2, 3).reshape(-1, size, size, dim)


def from_windows(windows: Float[Tensor, "W s s D"], height: int, width: int) -> Float[Tensor, "B h w D"]:
    """Join windows to maps, without their padding."""
    size, dim = windows.shape[1], windows.shape[3]
    rows, columns = -(-height // size), -(-width // size)
    maps = windows.view(-1, rows, columns, size, size, dim).transpose(2, 3)
    return maps.reshape(-1, rows * size, columns * size, dim)[:, :height, :width]
