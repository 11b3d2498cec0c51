"""The vision tower: a pre-norm ViT with absolute and rotary positions (section 2.4, appendix B.1).

Pixels → patches → positions → blocks → norm → pooling → projection. Height and width may be any multiples of the
patch. With a padding mask, images of different grids share a batch: each is in the top left corner, has the positions
of its own grid, and does not attend to the padding.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from perception_encoder.errors import ConfigError, ShapeError
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.layers import AttentionPooling, Block, Transformer, rope_table


class VisionTransformer(nn.Module):
    """Images (B, 3, H, W) to embeddings (B, output_dim), or to tokens (B, N, D) without pooling."""

    def __init__(self, config: VisionConfig, name: str = "custom") -> None:
        super().__init__()
        self.config, self.name = config, name
        width, patch = config.width, config.patch_size
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width)) if config.class_token else None
        self.positional_embedding = nn.Parameter(torch.empty(int(config.class_token) + config.grid**2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.depth, config.heads, config.mlp_width, config.layer_scale)
        self.ln_post = nn.LayerNorm(width) if config.final_norm else nn.Identity()
        self.attn_pool = AttentionPooling(width) if config.attention_pool else None
        self.proj = nn.Parameter(torch.empty(width, config.output_dim)) if config.output_dim else None
        self.head: nn.Linear | None = None  # of `reset_classifier`
        self.embed_dim = self.num_features = width
        """Width of a token, and of a pooled vector before its projection, D (timm's names)."""
        self.num_prefix_tokens = int(config.class_token)
        """Tokens before the patches: 1 with a class token, else 0 (timm's name)."""
        self.global_pool = "map" if config.attention_pool else "token" if config.output_dim else "avg"

    @property
    def num_classes(self) -> int:
        """Length of the projection's or the new classifier's output; 0 without either (timm's name)."""
        return self.head.out_features if self.head is not None else self.config.output_dim or 0

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The training settings in timm's form: timm's transforms are then the published preprocessing."""
        size = self.config.image_size
        return {
            "architecture": self.name,
            "input_size": (3, size, size),
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "num_classes": self.config.output_dim or 0,
            "pool_size": None,
            "first_conv": "conv1",
            "classifier": "proj",
        }

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks (timm's name)."""
        return self.transformer.resblocks

    @property
    def feature_info(self) -> list[dict[str, str | int]]:
        """Each layer's `module`, channels `num_chs` (D) and `reduction` in pixels (timm's name and form)."""
        width, patch = self.config.width, self.config.patch_size
        return [{"module": f"blocks.{n}", "num_chs": width, "reduction": patch} for n in range(self.config.depth)]

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the patch grid (h, w) of an image size; ShapeError unless both sides are multiples of the patch."""
        patch = self.config.patch_size
        if height % patch or width % patch or not height or not width:
            near = "x".join(str(max(1, round(side / patch)) * patch) for side in (height, width))
            raise ShapeError(
                f"image size {height}x{width} is not a multiple of the patch size {patch}; resize it, such as to {near}"
            )
        return height // patch, width // patch

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the absolute position embedding of a grid (N, D), with the class token's row, if any, first."""
        prefix, table = self.num_prefix_tokens, self.positional_embedding
        return torch.cat([table[:prefix], resample_positions(table[prefix:], grid)])

    def embed_patches(
        self,
        x: Tensor,
        padding_mask: Tensor | None = None,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """Return the first block's input (B, N, D) for images (B, 3, H, W).

        `mask` (B, h·w): patches to replace by `mask_token` (D).
        """
        if x.dim() != 4 or x.shape[1] != 3:
            raise ShapeError(f"images have the shape {tuple(x.shape)}; it must be (batch, 3, height, width)")
        grid = self.grid_of(x.shape[-2], x.shape[-1])
        tokens = self.conv1(x).flatten(2).transpose(1, 2)  # (B, h·w, D)
        if mask is not None and mask_token is not None:
            tokens = torch.where(mask[..., None], mask_token.to(tokens.dtype), tokens)
        if self.class_embedding is not None:
            tokens = torch.cat([self.class_embedding.to(tokens.dtype).expand(x.shape[0], 1, -1), tokens], dim=1)
        if padding_mask is None:
            positions = self.positions(grid)
        else:
            if padding_mask.shape != (x.shape[0], *grid):
                raise ShapeError(f"the padding mask is {tuple(padding_mask.shape)}, must be {(x.shape[0], *grid)}")
            positions = torch.stack([self._corner_positions(image, grid) for image in grids_of(padding_mask)])
        return self.ln_pre(tokens + positions)

    def _corner_positions(self, image: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """Return positions of an image's grid in the top left corner of `grid`; zeros on the padding."""
        prefix, table = self.num_prefix_tokens, self.positions(image)
        canvas = table.new_zeros(*grid, table.shape[-1])
        canvas[: image[0], : image[1]] = table[prefix:].unflatten(0, image)
        return torch.cat([table[:prefix], canvas.flatten(0, 1)])

    def rope(self, height: int, width: int, device: torch.device) -> Tensor | None:
        """Return the rotary table of an image size, shared by all blocks; None without RoPE."""
        if not self.config.rope:
            return None
        head_dim = self.config.width // self.config.heads
        return rope_table(self.grid_of(height, width), head_dim, self.config.class_token, device)

    def token_mask(self, padding_mask: Tensor | None) -> Tensor | None:
        """Return the attention mask (B, 1, 1, N) of a padding mask (B, h, w); the class token is always visible."""
        if padding_mask is None:
            return None
        mask = padding_mask.flatten(1)
        mask = torch.cat([mask.new_ones(len(mask), self.num_prefix_tokens), mask], dim=1)
        return mask[:, None, None]

    def forward_features(
        self,
        x: Float[Tensor, "B 3 H W"],
        norm: bool = True,
        padding_mask: Bool[Tensor, "B h w"] | None = None,
        mask: Bool[Tensor, "B P"] | None = None,
        mask_token: Float[Tensor, " D"] | None = None,
        branches: Float[Tensor, "L 2 B"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Return the last block's tokens, class token (if any) first.

        Args:
            norm: Apply `ln_post`.
            padding_mask: See `token_mask`.
            mask: Patches (P = h·w) to replace by `mask_token`.
            mask_token: Embedding of a hidden patch.
            branches: Factors of the residual branches for stochastic depth, drawn by `drop_path`.
        """
        tokens = self.embed_patches(x, padding_mask, mask, mask_token)
        rope = self.rope(x.shape[-2], x.shape[-1], x.device)
        tokens = self.transformer(tokens, rope, self.token_mask(padding_mask), branches=branches)
        return self.ln_post(tokens) if norm else tokens

    def pool(self, tokens: Tensor, padding_mask: Tensor | None = None, project: bool = True) -> Tensor:
        """Return the projected embedding (B, output_dim) of normed tokens (B, N, D); without pooling, the tokens."""
        if self.attn_pool is not None:
            pooled = self.attn_pool(tokens, self.token_mask(padding_mask))
        elif self.proj is None and self.head is None:
            return tokens
        elif self.global_pool == "token":
            pooled = tokens[:, 0]
        else:
            pooled = tokens[:, self.num_prefix_tokens :]
            if padding_mask is None:
                pooled = pooled.mean(dim=1)
            else:
                seen = padding_mask.flatten(1)[..., None].to(pooled.dtype)
                pooled = (pooled * seen).sum(dim=1) / seen.sum(dim=1)
        if self.head is not None and project:
            return self.head(pooled)
        return pooled @ self.proj if self.proj is not None and project else pooled

    def forward_head(self, x: Float[Tensor, "B N D"], pre_logits: bool = False) -> Float[Tensor, "B ..."]:
        """Pool and project the output of `forward_features` to (B, output_dim) (timm's name).

        `pre_logits`: omit the projection, (B, D). Without pooling, returns the tokens; timm averages them.
        """
        return self.pool(x, project=not pre_logits)

    def forward(
        self, x: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B h w"] | None = None
    ) -> Float[Tensor, "B ..."]:
        """Return embeddings (B, output_dim), or tokens (B, N, D) without pooling."""
        return self.pool(self.forward_features(x, padding_mask=padding_mask), padding_mask)

    def forward_intermediates(
        self,
        x: Float[Tensor, "B 3 H W"],
        indices: int | list[int] | Tensor | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        padding_mask: Bool[Tensor, "B h w"] | None = None,
    ) -> list[Tensor] | list[tuple[Tensor, Tensor]] | tuple[Tensor, list[Tensor] | list[tuple[Tensor, Tensor]]]:
        """Return features of several layers in one pass, with timm's names and meaning.

        Args:
            indices: 0-based layers, negative from the end, as a list or tensor; a number n for the last n; None for
                all.
            return_prefix_tokens: Pair each feature with its class token (B, 0 or 1, D).
            norm: Apply `ln_post` to each feature.
            stop_early: Do not run layers after the last index.
            output_fmt: A feature is (B, D, h, w) as "NCHW", or (B, h·w, D) as "NLC".
            intermediates_only: Return the features alone, not the final tokens (B, N, D) before them.
            padding_mask: See `token_mask`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError(f"output_fmt is {output_fmt!r}; it must be 'NCHW' or 'NLC'")
        layers, prefix = self.layer_indices(indices), self.num_prefix_tokens
        rope, mask = self.rope(x.shape[-2], x.shape[-1], x.device), self.token_mask(padding_mask)
        tokens = self.embed_patches(x, padding_mask)
        last = max(layers, default=-1) if stop_early else self.config.depth - 1
        features = {}
        for index in range(last + 1):
            tokens = self.transformer.run_block(index, tokens, rope, mask)
            if index in layers:
                features[index] = self.ln_post(tokens) if norm else tokens
        intermediates = [features[index][:, prefix:] for index in layers]
        if output_fmt == "NCHW":
            grid = self.grid_of(x.shape[-2], x.shape[-1])
            intermediates = [f.transpose(1, 2).unflatten(2, grid).contiguous() for f in intermediates]
        if return_prefix_tokens:
            pairs = [(f, features[index][:, :prefix]) for f, index in zip(intermediates, layers, strict=True)]
            return pairs if intermediates_only else (self.ln_post(tokens), pairs)
        return intermediates if intermediates_only else (self.ln_post(tokens), intermediates)

    def layer_indices(self, indices: int | list[int] | Tensor | None) -> list[int]:
        """Return 0-based layers, ascending: all for None, the last n for a number, negative ones from the end."""
        depth = self.config.depth
        if indices is None:
            return list(range(depth))
        if isinstance(indices, Tensor):
            indices = cast(int | list[int], indices.tolist())
        if isinstance(indices, int) and not 0 < indices <= depth:
            raise ConfigError(f"the last {indices} layers do not exist; {self.name} has {depth}")
        numbers = range(-indices, 0) if isinstance(indices, int) else indices
        for index in numbers:
            if not -depth <= index < depth:
                raise ConfigError(f"layer {index} does not exist; {self.name} has layers 0 to {depth - 1}")
        return sorted({index % depth for index in numbers})

    def truncate(self, layer: int) -> VisionTransformer:
        """Remove, in place, everything after block `layer` (0-based, negative from the end): blocks, norm, pooling.

        PE-Lang's encoder is made this way: `truncate(46)` of Core-G's 50 layers. Returns self.
        """
        (index,) = self.layer_indices([layer])
        del self.transformer.resblocks[index + 1 :]
        self.ln_post, self.attn_pool, self.proj, self.head, self.global_pool = nn.Identity(), None, None, None, "avg"
        self.config = dataclasses.replace(
            self.config, depth=index + 1, attention_pool=False, final_norm=False, output_dim=None
        )
        return self

    def add_layer_scale(self, initial: float) -> VisionTransformer:
        """Add LayerScale to every block, in place, for training an alignment; features do not change.

        The maps before it grow by 1 / `initial`. Raises ConfigError if the tower has LayerScale. Returns self.
        """
        if self.config.layer_scale is not None:
            raise ConfigError(f"{self.name} has LayerScale already, of {self.config.layer_scale}")
        for block in self.transformer.resblocks:
            cast(Block, block).add_layer_scale(initial)
        self.config = dataclasses.replace(self.config, layer_scale=initial)
        return self

    @torch.no_grad()
    def set_image_size(self, size: int) -> None:
        """Resample the position table to another image size, before training at that size.

        This makes a new parameter: DDP may remember the old one's shape.
        """
        table = self.positions(self.grid_of(size, size)).detach().clone()
        self.positional_embedding = nn.Parameter(table, requires_grad=self.positional_embedding.requires_grad)
        self.config = dataclasses.replace(self.config, image_size=size)

    def set_input_size(self, img_size: int | tuple[int, int], patch_size: int | None = None) -> None:
        """Call `set_image_size` (timm's name); ConfigError for another shape or another patch size.

        `forward` takes any size of whole patches without it.
        """
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if height != width:
            raise ConfigError(f"img_size is {height}x{width}; only a square can be set (`forward` takes any size)")
        if patch_size not in (None, self.config.patch_size):
            raise ConfigError(f"patch_size is {patch_size}; it cannot change from {self.config.patch_size}")
        self.set_image_size(height)

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None, generator: torch.Generator | None = None
    ) -> None:
        """Replace the projection by a new linear classifier of pooled features, as in timm; 0: by none.

        `global_pool`: "map" (attention pooling), "avg" (of the patches) or "token" (the class token); by default
        unchanged. With neither a classifier nor attention pooling, a tower returns tokens. The weights are drawn from
        `generator`, by default with seed 0. Published layouts cannot hold a classifier: save `state_dict()`. Raises
        ConfigError for a pooling that the tower lacks.
        """
        pool = self.global_pool if global_pool is None else global_pool
        able = {"map": self.attn_pool is not None, "avg": True, "token": self.config.class_token}
        if num_classes < 0 or not able.get(pool, False):
            allowed = ", ".join(name for name, has in able.items() if has)
            raise ConfigError(f"{num_classes} classes by {pool!r}: {self.name} has 0 or more, by {allowed}")
        if pool != "map":
            self.attn_pool = None
        self.global_pool, self.proj, self.head = pool, None, None
        self.config = dataclasses.replace(self.config, attention_pool=self.attn_pool is not None, output_dim=None)
        if num_classes:
            weight = self.conv1.weight
            head = nn.Linear(self.config.width, num_classes, device=weight.device, dtype=weight.dtype)
            drawn = torch.randn(head.weight.shape, generator=generator or torch.Generator().manual_seed(0))
            with torch.no_grad():
                head.weight.copy_(0.01 * drawn)
                nn.init.zeros_(head.bias)
            self.head = head.train(self.training)

    def get_classifier(self) -> nn.Linear | None:
        """Return the classifier of `reset_classifier`, or None (timm's name)."""
        return self.head

    def no_weight_decay(self) -> set[str]:
        """Return parameters without weight decay, besides biases and norms (timm's name)."""
        return {"positional_embedding", *(["class_embedding"] if self.config.class_token else [])}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of each layer's parameters, for layer-wise learning rate decay (timm's name)."""
        return {
            "stem": r"^class_embedding|^positional_embedding|^conv1|^ln_pre",
            "blocks": [(r"^transformer\.resblocks\.(\d+)", None), (r"^ln_post", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.transformer.checkpointing = enable


def grids_of(padding_mask: Tensor) -> list[tuple[int, int]]:
    """Return each image's grid (h, w) from a padding mask (B, h, w); ShapeError unless it is a top-left rectangle."""
    if padding_mask.dtype != torch.bool:
        raise ShapeError(f"a padding mask must be boolean (True on the image), not {padding_mask.dtype}")
    heights, widths = padding_mask[:, :, 0].sum(1).tolist(), padding_mask[:, 0].sum(1).tolist()
    grids = [(int(h), int(w)) for h, w in zip(heights, widths, strict=True)]
    for row, (h, w) in zip(padding_mask, grids, strict=True):
        if not h or not w or int(row.sum()) != h * w or not bool(row[:h, :w].all()):
            raise ShapeError("a padding mask must be True on one rectangle in the top left corner of each image")
    return grids


def resample_table(table: Tensor, rows: int) -> Tensor:
    """Resample a square position table (R, D) to `rows` of another square; a class token's row, if any, comes first."""
    prefix = len(table) - math.isqrt(len(table)) ** 2
    side = math.isqrt(rows - prefix)
    return torch.cat([table[:prefix], resample_positions(table[prefix:], (side, side))])


def resample_positions(grid_embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a square grid of position embeddings (h·w, D) to another grid: bilinear, corners not aligned."""
    side = math.isqrt(grid_embedding.shape[0])
    if grid == (side, side):
        return grid_embedding
    square = grid_embedding.T.reshape(1, -1, side, side)  # (1, D, h, w)
    return F.interpolate(square, size=grid, mode="bilinear", align_corners=False).flatten(2)[0].T
