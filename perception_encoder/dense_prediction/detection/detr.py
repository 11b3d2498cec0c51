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

from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH, Detected
from perception_encoder.dense_prediction.detection.proposals import anchors, choose_proposals
from perception_encoder.dense_prediction.detection.suppression import suppress
from perception_encoder.dense_prediction.feature_pyramid import DetaPyramid
from perception_encoder.errors import ConfigError, MissingExtraError

LEVELS = 5
MOST_LAYERS = 100
EDGE = 0.01
"""Anchors with a centre or a side nearer to 0 or 1 are not used."""
CANDIDATES = 10_000
"""The best pairs of a query and a class that are compared with each other."""
PROPOSAL_OVERLAP, QUERY_OVERLAP = 0.7, 0.6
"""From this IoU with an object on, an anchor or a query is its."""
PROPOSAL_SAMPLE, QUERY_SHARE = 128, 0.25
"""Of an image's anchors, or as a share of its queries, so many that are some object's are drawn at most."""
PRIOR = 0.01
"""Score of every class at first."""
COSTS = {"class": 1.0, "box": 5.0, "giou": 2.0}
"""Weights of the losses, those of the published scripts; the code's default for classes, 2, is used by none of them."""


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


Truth = Sequence[tuple[Tensor, Tensor]]
"""Of each image: the objects' boxes (m, 4), centre, width and height from 0 to 1, and their classes (m,) from 0."""
Pairs = tuple[Int[Tensor, " p"], Int[Tensor, " p"]]
"""Predictions of an image, and the objects that they are assigned to."""


def query_losses(
    layers: Sequence[tuple[Tensor, Tensor]], references: Float[Tensor, "B Q 4"], truth: Truth, most: int
) -> dict[str, Tensor]:
    """Return the second stage's losses without their weights: of classes and boxes, summed over the decoder's layers.

    `layers`: scores (B, Q, K) and boxes (B, Q, 4). Queries are assigned once, by the boxes that they begin with.
    """
    sample = int(QUERY_SHARE * references.shape[1])
    pairs = _assign_images(references, truth, QUERY_OVERLAP, most, sample)
    total: dict[str, Tensor] = {}
    for scores, boxes in layers:
        for name, value in _losses(scores, boxes, truth, pairs).items():
            total[name] = total[name] + value if name in total else value
    return total


def proposal_losses(
    scores: Float[Tensor, "B N K"],
    boxes: Float[Tensor, "B N 4"],
    anchors: Float[Tensor, "B N 4"],
    truth: Truth,
    most: int,
) -> dict[str, Tensor]:
    """Return the first stage's losses without their weights: whether an anchor is of any object, and its box.

    Any object is class 0; every anchor that is no object's is background, however much it overlaps one.
    """
    pairs = _assign_images(anchors, truth, PROPOSAL_OVERLAP, most, PROPOSAL_SAMPLE)
    return _losses(scores, boxes, [(each, torch.zeros_like(labels)) for each, labels in truth], pairs)


def _assign_images(boxes: Tensor, truth: Truth, overlap: float, most: int, sample: int) -> list[Pairs]:
    return [
        assign(to_corners(own), to_corners(objects), overlap, most, sample)
        for own, (objects, _) in zip(boxes, truth, strict=True)
    ]


def assign(boxes: Float[Tensor, "Q 4"], truth: Float[Tensor, "m 4"], overlap: float, most: int, sample: int) -> Pairs:
    """Return pairs of boxes and objects (corners), as DETA assigns them.

    A box is the object's that it overlaps most, if by `overlap` (IoU) or more, or if no box overlaps some object more.
    Of these, `sample` are drawn at most, by torch's generator. An object has as many as were drawn for it, `most` at
    most: those that overlap it most, whosever they are.
    """
    from torchvision.ops import box_iou

    if not len(truth):
        empty = torch.empty(0, dtype=torch.int64, device=boxes.device)
        return empty, empty
    overlaps = box_iou(truth, boxes)  # (m, Q)
    best, owner = overlaps.max(dim=0)
    is_best = (overlaps == overlaps.amax(dim=1, keepdim=True)).any(dim=0)
    positive = torch.nonzero((best >= overlap) | is_best)[:, 0]
    drawn = positive[torch.randperm(len(positive), device=positive.device)[:sample]]
    counts = torch.bincount(owner[drawn], minlength=len(truth)).clamp_max(most)
    index = overlaps.topk(min(most, len(boxes)), dim=1).indices
    chosen = torch.arange(index.shape[1], device=index.device) < counts[:, None]
    objects = torch.arange(len(truth), device=index.device)[:, None].expand_as(index)
    return index[chosen], objects[chosen]


def _losses(
    scores: Float[Tensor, "B Q K"], boxes: Float[Tensor, "B Q 4"], truth: Truth, pairs: Sequence[Pairs]
) -> dict[str, Tensor]:
    """Focal loss of all predictions' classes, L1 and GIoU of the boxes of pairs: sums, over the number of objects."""
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    count = _object_count(truth, scores.device)
    labels = torch.zeros_like(scores)
    for row, ((index, target), (_, own)) in enumerate(zip(pairs, truth, strict=True)):
        classes = torch.full_like(labels[row, :, 0], -1, dtype=torch.int64)
        classes[index] = own[target]  # a box of two objects has the class of one
        known = torch.nonzero(classes >= 0)[:, 0]
        labels[row, known, classes[known]] = 1.0
    focal = sigmoid_focal_loss(scores.float(), labels.float(), alpha=0.25, gamma=2.0)
    predicted = torch.cat([own[index] for own, (index, _) in zip(boxes, pairs, strict=True)]).float()
    true_boxes = torch.cat([own[target] for (own, _), (_, target) in zip(truth, pairs, strict=True)])
    giou = generalized_box_iou_loss(to_corners(predicted), to_corners(true_boxes), reduction="sum", eps=1e-12)
    return {
        "class": focal.sum() / count,
        "box": F.l1_loss(predicted, true_boxes, reduction="sum") / count,
        "giou": giou / count,
    }


def _object_count(truth: Truth, device: torch.device) -> Tensor:
    """The number of a batch's objects, at least 1; of several processes their mean, so that all weigh objects alike."""
    count = torch.tensor(float(sum(len(labels) for _, labels in truth)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp_min(1.0)


def to_corners(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Centre, width and height to left, top, right and bottom."""
    center, side = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - side / 2, center + side / 2], dim=-1)


def to_centers(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Left, top, right and bottom to centre, width and height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
