"""A perception language model: a vision tower cut at a layer, a projector, and a decoder-only language model.

Image tokens replace the embeddings of marked positions in the decoder's input, in order; everything else is unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from perception_encoder.data.pairs import TensorBatch
from perception_encoder.errors import ConfigError, ShapeError
from perception_encoder.language_models.prompt import IGNORED, Prompt
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.transfer import to_device


class Projector(nn.Module):
    """Linear – GELU – Linear on each token, then average pooling over `pool` × `pool` tokens (PLM's order).

    `width`: channels of the encoder's tokens. `dim`: channels of the language model's embeddings. `linear`: one
    linear map instead, the ablation of Table 9. Parameters carry PLM's names, `projector.0` and `projector.2`.
    """

    def __init__(self, width: int, dim: int, pool: int = 1, linear: bool = False) -> None:
        super().__init__()
        if min(width, dim, pool) < 1:
            raise ConfigError(f"width, dim and pool are {width}, {dim} and {pool}; all must be at least 1")
        self.width, self.dim, self.pool = width, dim, pool
        layers = [nn.Linear(width, dim)] if linear else [nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim)]
        self.projector = nn.Sequential(*layers)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw new weights that keep the scale of the inputs; biases are zero."""
        for module in self.projector:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5, generator=generator)
                nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Float[Tensor, "B N width"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "B M dim"]:
        """Return a grid's projected tokens, row by row: M = `tokens_of(grid)`; ShapeError if they do not fill it.

        `grid`: rows and columns of the tokens, the class token removed; a square by default.
        """
        rows, columns = grid or (math.isqrt(tokens.shape[1]),) * 2
        if rows * columns != tokens.shape[1]:
            raise ShapeError(f"{tokens.shape[1]} tokens do not fill a grid of {rows} x {columns}; give their grid")
        projected = self.projector(tokens)  # (B, N, dim)
        if self.pool == 1:
            return projected
        image = projected.transpose(1, 2).unflatten(2, (rows, columns))
        pooled = F.adaptive_avg_pool2d(image, self.pooled_grid((rows, columns)))
        return pooled.flatten(2).transpose(1, 2)

    def pooled_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns after pooling; sides are divided by `pool`, rounded down, to at least 1."""
        return max(1, grid[0] // self.pool), max(1, grid[1] // self.pool)

    def tokens_of(self, grid: tuple[int, int]) -> int:
        """Return the number of tokens from a grid."""
        return math.prod(self.pooled_grid(grid))


class PerceptionLanguageModel(nn.Module):
    """A tower cut at the layer that the projector reads, and a causal language model of transformers."""

    def __init__(self, vision: VisionTransformer, projector: Projector, decoder: nn.Module) -> None:
        super().__init__()
        self.vision, self.projector, self.decoder = vision, projector, decoder

    def image_features(
        self, pixels: Float[Tensor, "B 3 H W"], branches: Float[Tensor, "L 2 B"] | None = None
    ) -> Float[Tensor, "B P width"]:
        """Return the tower's last tokens without the class token; P = h · w. `branches`: see `forward_features`."""
        tokens = self.vision.forward_features(pixels, norm=False, branches=branches)
        return tokens[:, self.vision.num_prefix_tokens :]

    def image_tokens(self, images: Tensor, branches: Tensor | None = None) -> Float[Tensor, "N M dim"]:
        """Return the decoder's tokens of pixels (N, 3, H, W), or of `image_features` (N, P, width) of square images."""
        grid: tuple[int, int] | None = None
        if images.dim() == 4:
            grid = self.vision.grid_of(images.shape[-2], images.shape[-1])
            images = self.image_features(images, branches)
        return self.projector(images.to(next(self.projector.parameters()).dtype), grid)

    def embed(
        self, ids: Int[Tensor, "B T"], is_image: Bool[Tensor, "B T"], image_tokens: Float[Tensor, "M dim"]
    ) -> Float[Tensor, "B T dim"]:
        """Return token embeddings with image tokens at the marked positions; ShapeError unless there are as many.

        The marks are read: with marks on the CPU, nothing waits for a GPU.
        """
        marks, device = is_image.nonzero(), image_tokens.device
        if len(marks) != len(image_tokens):
            raise ShapeError(f"{len(image_tokens)} image tokens for {len(marks)} marked positions")
        embeddings = self.decoder.get_input_embeddings()(to_device(ids, device))  # type: ignore[operator]
        return embeddings.index_put(to_device(marks, device).unbind(1), image_tokens.to(embeddings.dtype))

    def token_losses(
        self, embeddings: Float[Tensor, "B T dim"], labels: Int[Tensor, "B T"], parts: Int[Tensor, "B T"] | None = None
    ) -> tuple[Float[Tensor, " K"], Bool[Tensor, " K"]]:
        """Return the cross entropy of each labelled token, and whether it is the most probable one.

        A token is predicted from the earlier tokens of its row, or with `parts`, from those of part 0 and its own part.
        Rows are padded on the right, so that no token attends to padding. Logits are computed for labels only. The
        labels are read: with labels on the CPU, nothing waits for a GPU.
        """
        targets = labels[:, 1:]
        labelled = targets != IGNORED
        targets = to_device(targets[labelled], embeddings.device)
        logits = self._logits(embeddings[:, :-1], labelled, parts).float()
        losses = F.cross_entropy(logits, targets, reduction="none")
        return losses, logits.detach().argmax(-1) == targets

    def _logits(self, embeddings: Tensor, marked: Tensor, parts: Tensor | None) -> Tensor:
        """Return logits (K, V) at the marked positions."""
        positions = to_device(marked.nonzero(), embeddings.device).unbind(1)
        decoder: Any = self.decoder
        inputs = {"inputs_embeds": embeddings, "use_cache": False}
        if parts is not None:
            parts = parts[:, : embeddings.shape[1]]  # a token attends to earlier ones of part 0, which each continues
            seen = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])  # (B, T, T)
            mask = (seen & torch.ones_like(seen).tril())[:, None]
            inputs["position_ids"] = mask[:, 0].sum(-1) - 1
            lowest = torch.finfo(embeddings.dtype).min
            inputs["attention_mask"] = torch.zeros_like(mask, dtype=embeddings.dtype).masked_fill(~mask, lowest)
        if scales_logits(decoder.config.get_text_config()):
            return decoder(**inputs).logits[positions]
        hidden = decoder.get_decoder()(**inputs).last_hidden_state
        return decoder.get_output_embeddings()(hidden[positions])

    def logits(
        self, ids: Int[Tensor, "B T"], is_image: Bool[Tensor, "B T"], images: Float[Tensor, "N 3 H W"]
    ) -> Float[Tensor, "B T V"]:
        """Return the logits of the next token at each position; images are in the order of their marks, of one size."""
        embeddings = self.embed(ids, is_image, self.image_tokens(images).flatten(0, 1))
        return self.decoder(inputs_embeds=embeddings, use_cache=False).logits

    def forward(
        self,
        ids: Tensor,
        labels: Tensor,
        is_image: Tensor,
        images: Tensor,
        parts: Tensor | None = None,
        branches: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the `token_losses` of a batch. Training uses only this, so that DDP and FSDP can wrap it."""
        embeddings = self.embed(ids, is_image, self.image_tokens(images, branches).flatten(0, 1))
        return self.token_losses(embeddings, labels, parts)


@dataclass(frozen=True)
class LanguageBatch(TensorBatch):
    """A rank's share of a batch."""

    host = frozenset({"labels", "is_image"})

    ids: Tensor
    """(B, T); rows are padded on the right."""
    labels: Tensor
    """(B, T); `IGNORED` for tokens without a loss."""
    is_image: Tensor
    """(B, T)."""
    parts: Tensor | None
    """(B, T); which tokens attend to each other (`Prompt.parts`); None if all attend to all earlier ones."""
    images: Tensor
    """Pixels (N, 3, S, S), or features (N, P, width), of the images, tiles and frames of all rows in order."""
    step: int
    answer_tokens: int
    """Number of labelled tokens in the batch over all ranks; the loss is their mean."""
    rows: int
    """Number of conversations in the batch over all ranks."""

    def __len__(self) -> int:
        return self.rows


def collate(examples: Sequence[tuple[Prompt, Tensor]], step: int) -> LanguageBatch:
    """Collate all conversations of a batch: prompts, and the pixels or features of their images, tiles and frames."""
    prompts = [prompt for prompt, _ in examples]
    longest = max(len(prompt.ids) for prompt in prompts)

    def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
        return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])

    parts = None
    if any(prompt.parts for prompt in prompts):
        parts = pad([prompt.parts or [0] * len(prompt.ids) for prompt in prompts], 0)
    labels = pad([prompt.labels for prompt in prompts], IGNORED)
    return LanguageBatch(
        pad([prompt.ids for prompt in prompts], 0),
        labels,
        pad([prompt.is_image for prompt in prompts], 0).bool(),
        parts,
        torch.cat([images for _, images in examples]),
        step,
        int((labels[:, 1:] != IGNORED).sum()),
        len(examples),
    )


def scales_logits(config: Any) -> bool:
    """Return whether a language model rescales its logits after the output map, like Gemma, Granite and Cohere."""
    return any(getattr(config, name, None) for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
