"""Boxes of objects by DETA, the paper's system-level detector (appendix B.3.5), over a pyramid of one layer.

It is a deformable DETR, whose encoder and decoder are transformers' (Zhu et al., 2021), in two stages: all pyramid
patches propose boxes, and the best become queries. Both stages assign several predictions to an object by their overlap
and suppress doubles (Ouyang-Zhang et al., "NMS Strikes Back", 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from perception_encoder.dense_prediction.detection.detections import Detected, suppress
from perception_encoder.dense_prediction.detection.detr_losses import (
    COSTS,
    proposal_losses,
    query_losses,
    to_centers,
    to_corners,
)
from perception_encoder.dense_prediction.detection.feature_pyramid import DetaPyramid
from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH
from perception_encoder.errors import ConfigError, MissingExtraError

LEVELS = 5
MOST_LAYERS = 100
EDGE = 0.01
"""Anchors with a centre or a side nearer to 0 or 1 are not used."""
CANDIDATES = 10_000
"""The best pairs of a query and a class that are compared with each other."""
PRIOR = 0.01
"""Score of every class at first."""


@dataclass(frozen=True, kw_only=True)
class DetrHeadConfig:
    """The transformer's size, and what it gives; the defaults are the paper's."""

    channels: int = 256
    """Of the pyramid and the transformer; a multiple of 32."""
    layers: int = 6
    """Of its encoder, and of its decoder."""
    hidden: int = 2048
    """Of their MLPs."""
    queries: int = 900
    """The best proposals; 2,000 with test-time augmentation."""
    matches: int = 4
    """Queries that an object has, at most."""
    least_score: float = 0.01
    """Of a detection."""
    most: int = 100
    """Detections of an image."""
    overlap: float = 0.7
    """From this IoU on, the worse of two detections of a class is suppressed."""
    soft: bool = False
    """Lower the scores of those that overlap so much, rather than drop them (soft-NMS)."""

    def __post_init__(self) -> None:
        if self.channels < 32 or self.channels % 32:
            raise ConfigError(f"channels is {self.channels}; it must be a multiple of 32")
        if min(self.layers, self.hidden, self.queries, self.matches, self.most) < 1:
            raise ConfigError("layers, hidden, queries, matches and most must each be at least 1")
        if self.layers > MOST_LAYERS:
            raise ConfigError(f"layers is {self.layers}; it must be at most {MOST_LAYERS}")


class DetrHead(nn.Module):
    """Features (B, h, w, D) to losses, or to detections; see `Detector`."""

    masks = False

    def __init__(self, width: int, classes: int, config: DetrHeadConfig) -> None:
        """`classes`: without a background. MissingExtraError without transformers."""
        super().__init__()
        try:
            from transformers.models.deformable_detr import modeling_deformable_detr as library
        except ImportError:
            raise MissingExtraError("transformers", "lang") from None
        self.config, self.classes = config, classes
        channels, own = config.channels, _library_config(config, classes)
        self.pyramid = DetaPyramid(width, channels)
        self.level_embed = nn.Parameter(torch.randn(LEVELS, channels))
        parts = cast(Any, library)
        self.positions = parts.DeformableDetrSinePositionEmbedding(channels // 2, normalize=True)
        self.encoder, self.decoder = parts.DeformableDetrEncoder(own), parts.DeformableDetrDecoder(own)
        self.proposal = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.from_box = nn.Sequential(nn.Linear(2 * channels, 2 * channels), nn.LayerNorm(2 * channels))
        self.from_patch = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        stages = range(config.layers + 1)  # the last one is that of the proposals
        self.class_embed = nn.ModuleList(nn.Linear(channels, classes) for _ in stages)
        self.decoder.bbox_embed = nn.ModuleList(_box_mlp(channels) for _ in stages)
        for embed in self.class_embed:
            nn.init.constant_(cast(nn.Linear, embed).bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(
        self,
        features: Float[Tensor, "B h w D"],
        targets: list[dict[str, Tensor]] | None = None,
        inside: Sequence[tuple[float, float]] | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return scores (B, Q, K), before the sigmoid, and boxes (B, Q, 4), from 0 to 1; in training also the losses.

        Boxes of targets, and `inside`, heights and widths of images that do not fill their maps, are in the head's own
        pixels: a patch has 16 by 16.
        """
        tokens = self._encode(features, inside)
        proposals = self._propose(tokens)
        layers = self._decode(tokens, proposals)
        if targets is None:
            return layers[-1], {}
        whole = features.shape[1] * PATCH, features.shape[2] * PATCH
        truth = []
        for each, (height, width) in zip(targets, inside or [whole] * len(targets), strict=True):
            sides = torch.tensor([width, height] * 2, device=features.device)
            truth.append((to_centers(each["boxes"] / sides), each["labels"] - 1))
        total: dict[str, Tensor] = {}
        for name, value in query_losses(layers, proposals.references, truth, self.config.matches).items():
            total[name] = COSTS[name] * value
        own = proposal_losses(
            proposals.scores, proposals.logits.sigmoid(), proposals.anchors, truth, self.config.matches
        )
        return layers[-1], {**total, **{f"proposal_{name}": COSTS[name] * value for name, value in own.items()}}

    def _encode(self, features: Tensor, inside: Sequence[tuple[float, float]] | None) -> _Tokens:
        """The pyramid's patches, after the encoder."""
        levels = self.pyramid(features)
        pixels = features.new_ones(len(features), features.shape[1] * PATCH, features.shape[2] * PATCH)
        for row, (height, width) in enumerate(inside or ()):
            pixels[row, math.ceil(height) :], pixels[row, :, math.ceil(width) :] = 0, 0
        masks = [F.interpolate(pixels[None], level.shape[-2:])[0].bool() for level in levels]
        positions = [
            self.positions(shape=level.shape, device=level.device, dtype=torch.float32, mask=mask).to(level.dtype)
            for level, mask in zip(levels, masks, strict=True)
        ]
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        shapes = torch.tensor(sizes, device=features.device)
        covered = torch.stack([torch.stack([each[:, :, 0].sum(1), each[:, 0].sum(1)], dim=-1) for each in masks], dim=1)
        where = _Where(
            sizes=sizes,
            shapes=shapes,
            starts=torch.cat([shapes.new_zeros(1), shapes.prod(dim=1).cumsum(0)[:-1]]),
            is_inside=torch.cat([each.flatten(1) for each in masks], dim=1),
            covered=covered.float(),
        )
        embedded = [each + own[:, None, None] for each, own in zip(positions, self.level_embed, strict=True)]
        memory = self.encoder(
            inputs_embeds=_flat(levels),
            attention_mask=where.is_inside,
            spatial_position_embeddings=_flat(embedded),
            **where.arguments(),
        ).last_hidden_state
        return _Tokens(memory, where)

    def _propose(self, tokens: _Tokens) -> _Proposals:
        """The first stage: every patch proposes a box, and the best become queries."""
        own = anchors(tokens.where.sizes, tokens.where.covered)
        usable = ((own > EDGE) & (own < 1 - EDGE)).all(dim=-1) & tokens.where.is_inside
        patches = self.proposal(tokens.memory * usable[..., None])
        scores = self.class_embed[-1](patches)
        logits = self.decoder.bbox_embed[-1](patches) + own.logit().masked_fill(~usable[..., None], torch.inf)
        boxes = to_corners(logits.detach().float().sigmoid()).clamp(0, 1)
        level = torch.repeat_interleave(torch.arange(LEVELS, device=own.device), tokens.where.shapes.prod(dim=1))
        best = torch.stack(
            [
                choose_proposals(each, score, level, self.config.queries)
                for each, score in zip(boxes, scores.detach()[..., 0], strict=True)  # the others mean nothing
            ]
        )
        rows = torch.arange(len(best), device=best.device)[:, None]
        chosen = logits.detach()[rows, best]
        queries, target = self.from_box(sine_embedding(chosen.sigmoid(), self.config.channels // 2)).chunk(2, dim=-1)
        target = target + self.from_patch(patches.detach()[rows, best])
        own = own.masked_fill(~usable[..., None], 1.0)
        return _Proposals(scores, logits, own, chosen.sigmoid(), queries, target)

    def _decode(self, tokens: _Tokens, proposals: _Proposals) -> list[tuple[Tensor, Tensor]]:
        """The second stage: scores and boxes of the queries after each layer."""
        decoded = self.decoder(
            inputs_embeds=proposals.targets,
            object_queries_position_embeddings=proposals.queries,
            encoder_hidden_states=tokens.memory,
            encoder_attention_mask=tokens.where.is_inside,
            reference_points=proposals.references,
            **tokens.where.arguments(),
        )
        hidden, refined = decoded.intermediate_hidden_states, decoded.intermediate_reference_points  # (B, L, Q, …)
        layers = []
        for number in range(self.config.layers):
            before = refined[:, number - 1] if number else proposals.references
            box = self.decoder.bbox_embed[number](hidden[:, number]) + before.logit(eps=1e-5)
            layers.append((self.class_embed[number](hidden[:, number]), box.sigmoid()))
        return layers

    @torch.no_grad()
    def detect(
        self,
        features: Float[Tensor, "B h w D"],
        sizes: Sequence[tuple[int, int]],
        inside: Sequence[tuple[float, float]] | None = None,
        soft: bool = False,
    ) -> list[Detected]:
        """Detect objects in images that are stored with these heights and widths; `inside`: see `forward`; `soft`: by
        soft-NMS, whatever the config says."""
        (scores, boxes), _ = self(features, inside=inside)
        results = []
        images = zip(scores.float().sigmoid(), to_corners(boxes.float()), sizes, strict=True)
        for own, corners, (height, width) in images:
            best, index = own.flatten().topk(min(CANDIDATES, own.numel()))
            query, label = index // self.classes, index % self.classes
            limit = torch.tensor([width, height] * 2, device=own.device)
            pixels, config = torch.minimum((corners[query] * limit).clamp_min(0), limit), self.config
            rows, lowered = suppress(pixels, best, label, config.overlap, soft or config.soft, config.least_score)
            rows, lowered = rows[: config.most].cpu(), lowered[: config.most].cpu()
            labels = label.cpu()[rows] + 1
            results.append(Detected(pixels.cpu()[rows].numpy(), labels.numpy(), lowered.numpy(), None))
        return results


@dataclass(frozen=True)
class _Where:
    """Where patches of a pyramid are, as transformers' layers take it."""

    sizes: list[tuple[int, int]]
    shapes: Tensor
    """The same as a tensor, (L, 2)."""
    starts: Tensor
    """Index of each level's first patch, (L,)."""
    is_inside: Tensor
    """Whether a patch is in the image, rather than in its padding, (B, N)."""
    covered: Tensor
    """Rows and columns of each level that the image covers, (B, L, 2)."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that the encoder and the decoder share."""
        return {
            "spatial_shapes": self.shapes,
            "spatial_shapes_list": self.sizes,
            "level_start_index": self.starts,
            "valid_ratios": (self.covered / self.shapes).flip(-1),
        }


@dataclass(frozen=True)
class _Tokens:
    memory: Tensor
    """The patches of all levels, (B, N, C)."""
    where: _Where


@dataclass(frozen=True)
class _Proposals:
    scores: Tensor
    """For each patch, (B, N, K); the first is that of any object, the others are learned to be low."""
    logits: Tensor
    """Of the patches' boxes, infinite if they count for nothing, (B, N, 4)."""
    anchors: Tensor
    """(B, N, 4), of 1 if they count for nothing."""
    references: Tensor
    """The boxes of the best, (B, Q, 4)."""
    queries: Tensor
    targets: Tensor
    """What the decoder begins with, (B, Q, C)."""


def _library_config(config: DetrHeadConfig, classes: int) -> Any:
    from transformers import DeformableDetrConfig

    make = cast(Any, DeformableDetrConfig)
    return make(
        num_labels=classes,
        d_model=config.channels,
        num_feature_levels=LEVELS,
        num_queries=config.queries,
        encoder_layers=config.layers,
        decoder_layers=config.layers,
        encoder_ffn_dim=config.hidden,
        decoder_ffn_dim=config.hidden,
        dropout=0.0,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        two_stage=True,
        with_box_refine=True,
        disable_custom_kernels=True,
    )


def _box_mlp(channels: int) -> nn.Sequential:
    """Three layers that give no change of a box at first."""
    last = nn.Linear(channels, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), last)


def _flat(levels: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, h, w) to their patches (B, N, C)."""
    return torch.cat([each.flatten(2).transpose(1, 2) for each in levels], dim=1)


def sine_embedding(values: Float[Tensor, "B Q 4"], size: int) -> Float[Tensor, "B Q E"]:
    """Return each of the values, from 0 to 1, as `size` sines and cosines."""
    step = torch.arange(size, dtype=torch.float32, device=values.device)
    angles = values.float()[..., None] * 2 * math.pi / 10_000 ** (2 * (step // 2) / size)
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(2).to(values.dtype)


SMALLEST_ANCHOR = 0.05
"""Share of the image's sides of an anchor of the finest level; each level doubles it."""
CONSIDERED, DOUBLE = 1000, 0.9
"""The best proposals of a level, and the IoU from which two of a level are the same."""


def anchors(sizes: Sequence[tuple[int, int]], inside: Float[Tensor, "B L 2"] | None = None) -> Float[Tensor, "B N 4"]:
    """Return the boxes (x, y of the centre, width, height, from 0 to 1) that the patches of levels propose from.

    `inside`: height and width, in patches, of the part of each level that an image covers; by default all of it, and B
    is 1.
    """
    if inside is None:
        inside = torch.tensor([sizes], dtype=torch.float32)
    boxes = []
    for level, (h, w) in enumerate(sizes):
        rows, columns = (torch.arange(side, device=inside.device) + 0.5 for side in (h, w))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        center = torch.stack([x, y], dim=-1) / inside[:, level, None, None].flip(-1)  # (B, h, w, 2)
        side = torch.full_like(center, SMALLEST_ANCHOR * 2.0**level)
        boxes.append(torch.cat([center, side], dim=-1).flatten(1, 2))
    return torch.cat(boxes, dim=1)


def choose_proposals(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], levels: Int[Tensor, " N"], count: int
) -> Int[Tensor, " Q"]:
    """Return the indices of an image's best proposals; `boxes`: their corners; `levels`: where each is from.

    Every level has an equal share if it has as many that differ, and the best others fill up.
    """
    from torchvision.ops import batched_nms

    count = min(count, len(scores))
    best = []
    for level in levels.unique():
        rows = torch.nonzero(levels == level)[:, 0]
        best.append(rows[scores[rows].topk(min(CONSIDERED, len(rows))).indices])
    candidates = torch.cat(best)
    own = levels[candidates]
    different = candidates[batched_nms(boxes[candidates].float(), scores[candidates].float(), own, DOUBLE)]
    if len(different) < count:
        return scores.topk(count).indices
    is_level = levels[different][None] == levels.unique()[:, None]  # (L, n)
    chosen = (is_level & (is_level.cumsum(dim=1) <= count // len(is_level))).any(dim=0)
    chosen[torch.nonzero(~chosen)[: count - int(chosen.sum()), 0]] = True
    return different[chosen]
