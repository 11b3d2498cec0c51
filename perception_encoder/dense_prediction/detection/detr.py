"""Detect objects with DETA, the paper's system-level detector (appendix B.3.5), over a pyramid of one layer.

A deformable DETR in two stages, with transformers' encoder and decoder (Zhu et al., 2021): all pyramid patches propose
boxes, and the best become queries. Both stages suppress duplicates (Ouyang-Zhang et al., "NMS Strikes Back", 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from perception_encoder.dense_prediction.detection.detections import Detected, suppress
from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH
from perception_encoder.dense_prediction.head_fitting import Standardize
from perception_encoder.errors import ConfigError, needs_extra
from perception_encoder.records import Checked, Count, Range, Share, ShareAboveZero

LEVELS = 5
MAX_LAYERS = 100
EDGE = 0.01  # anchors with a centre or a side closer to 0 or 1 are not used
CANDIDATES, SOFT_CANDIDATES = 10_000, 2_000
"""Maximum number of query-class pairs, best first, to compare with each other; and with soft-NMS."""
PRIOR = 0.01  # initial score of every class
SMALLEST_ANCHOR = 0.05
"""Side of the finest level's anchors, as a share of the image's; it doubles with each level."""
CONSIDERED, DUPLICATE = 1000, 0.9
"""Number of a level's best proposals to compare, and the IoU at which two are duplicates."""


@dataclass(frozen=True, kw_only=True)
class DetrHeadConfig(Checked):
    """Size of the transformer and limits of its detections; defaults are the paper's."""

    channels: Count = 256
    """Channels of the pyramid and the transformer; a multiple of 32."""
    layers: Annotated[int, Range(at_least=1, at_most=MAX_LAYERS)] = 6
    """Layers of the encoder, and of the decoder."""
    hidden: Count = 2048
    """Width of their MLPs."""
    queries: Count = 900
    """Number of proposals that become queries; 2,000 with test-time augmentation."""
    matches: Count = 4
    """Maximum number of queries assigned to an object."""
    least_score: Share = 0.01
    """Minimum score of a detection."""
    most: Count = 100
    """Maximum number of detections per image."""
    overlap: ShareAboveZero = 0.7
    """IoU at which the weaker of two detections of a class is suppressed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels % 32:
            raise ConfigError(f"channels is {self.channels}; it must be a multiple of 32")


class DetaPyramid(nn.Module):
    """Features (B, h, w, D) to five maps (B, C, …) of 2, 1, 1/2, 1/4 and 1/8 times the grid."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.standardize = Standardize(width)
        self.finest = nn.ConvTranspose2d(width, width // 2, 2, 2)
        convolutions = [
            nn.Conv2d(width // 2, channels, 1),
            nn.Conv2d(width, channels, 1),
            nn.Conv2d(width, channels, 1),
            nn.Conv2d(width, channels, 3, 2),
            nn.Conv2d(channels, channels, 3, 2),
        ]
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(cast(Tensor, convolution.bias))
        self.project = nn.ModuleList(
            nn.Sequential(convolution, nn.GroupNorm(channels // 8, channels)) for convolution in convolutions
        )

    def forward(self, features: Float[Tensor, "B h w D"]) -> list[Tensor]:
        maps = self.standardize(features)
        coarse = F.max_pool2d(maps, 2, 2, ceil_mode=True)
        sources = [self.finest(maps), maps, coarse, _with_edge(coarse)]
        levels = [project(source) for project, source in zip(self.project[:-1], sources, strict=True)]
        return [*levels, self.project[-1](_with_edge(levels[-1]))]

    def sizes(self, grid: Sequence[int]) -> list[tuple[int, int]]:
        """Return the height and width of each level for a grid of patches."""
        sizes = [(2 * grid[0], 2 * grid[1])]
        for _ in range(len(self.project) - 1):
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        return sizes


def _with_edge(maps: Tensor) -> Tensor:
    """Pad for a 3x3 kernel. On maps of one patch, in bfloat16 on some CPUs, a convolution that pads by itself reads
    foreign memory in its backward pass (torch 2.13)."""
    return F.pad(maps, (1, 1, 1, 1))


class DetrHead(nn.Module):
    """Features (B, h, w, D) to losses or detections; see `Detector`."""

    masks = False

    def __init__(self, width: int, classes: int, config: DetrHeadConfig) -> None:
        """`classes`: without a background. MissingExtraError without transformers."""
        super().__init__()
        with needs_extra("lang", "transformers"):
            from transformers import DeformableDetrConfig
            from transformers.models.deformable_detr import modeling_deformable_detr
        library, channels = cast(Any, modeling_deformable_detr), config.channels
        settings = cast(Any, DeformableDetrConfig)(
            num_labels=classes,
            d_model=channels,
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
        self.config, self.classes = config, classes
        self.pyramid = DetaPyramid(width, channels)
        self.level_embed = nn.Parameter(torch.randn(LEVELS, channels))
        self.positions = library.DeformableDetrSinePositionEmbedding(channels // 2, normalize=True)
        self.encoder, self.decoder = library.DeformableDetrEncoder(settings), library.DeformableDetrDecoder(settings)
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
        valid_sizes: Sequence[tuple[float, float]] | None = None,
        queries: int | None = None,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return scores (B, Q, K), before the sigmoid, and boxes (B, Q, 4), from 0 to 1; in training also the losses.

        Boxes of targets, and `valid_sizes`, heights and widths of images that do not fill their maps, are in the
        head's pixels: 16 along a patch's side. `queries`: their number, by default the config's.
        """
        config, boxes_of = self.config, self.decoder.bbox_embed
        memory, valid, shown, levels = self._encode(features, valid_sizes)

        # First stage: every patch proposes a box, and the best become queries.
        boxes = anchors(levels["spatial_shapes_list"], shown)
        unusable = ~(((boxes > EDGE) & (boxes < 1 - EDGE)).all(dim=-1) & valid)[..., None]
        patches = self.proposal(memory.masked_fill(unusable, 0.0))
        proposed = self.class_embed[-1](patches)  # the first score is for any object, the others are trained to be low
        logits = boxes_of[-1](patches) + boxes.logit().masked_fill(unusable, torch.inf)
        corners = to_corners(logits.detach().float().sigmoid()).clamp(0, 1)
        level = torch.arange(LEVELS, device=boxes.device).repeat_interleave(levels["spatial_shapes"].prod(dim=1))
        best = torch.stack(
            [
                choose_proposals(item, score, level, queries or config.queries)
                for item, score in zip(corners, proposed.detach()[..., 0], strict=True)
            ]
        )
        rows = torch.arange(len(best), device=best.device)[:, None]
        references = logits.detach()[rows, best].sigmoid()
        positions, inputs = self.from_box(sine_embedding(references, config.channels // 2)).chunk(2, dim=-1)

        # Second stage: each layer scores the queries and refines their boxes.
        decoded = self.decoder(
            inputs_embeds=inputs + self.from_patch(patches.detach()[rows, best]),
            object_queries_position_embeddings=positions,
            encoder_hidden_states=memory,
            encoder_attention_mask=valid,
            reference_points=references,
            **levels,
        )
        hidden, refined = decoded.intermediate_hidden_states, decoded.intermediate_reference_points  # (B, L, Q, …)
        layers = []
        for number in range(config.layers):
            before = refined[:, number - 1] if number else references
            box = boxes_of[number](hidden[:, number]) + before.logit(eps=1e-5)
            layers.append((self.class_embed[number](hidden[:, number]), box.sigmoid()))
        if targets is None:
            return layers[-1], {}
        whole = features.shape[1] * PATCH, features.shape[2] * PATCH
        truth = []
        for target, (height, width) in zip(targets, valid_sizes or [whole] * len(targets), strict=True):
            sides = torch.tensor([width, height] * 2, device=features.device)
            truth.append((to_centers(target["boxes"] / sides), target["labels"] - 1))
        used = boxes.masked_fill(unusable, 1.0)
        first = proposal_losses(proposed, logits.sigmoid(), used, truth, config.matches)
        losses = query_losses(layers, references, truth, config.matches)
        losses |= {f"proposal_{name}": value for name, value in first.items()}
        return layers[-1], {name: COSTS[name.removeprefix("proposal_")] * value for name, value in losses.items()}

    def _encode(
        self, features: Tensor, valid_sizes: Sequence[tuple[float, float]] | None
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Encode the pyramid's patches.

        Returns their tokens (B, N, C); which of them show the image rather than padding (B, N); rows and columns of
        each level that it covers (B, L, 2); and the arguments about the levels, which the decoder shares.
        """
        levels = self.pyramid(features)
        pixels = features.new_ones(len(features), features.shape[1] * PATCH, features.shape[2] * PATCH)
        for row, (height, width) in enumerate(valid_sizes or ()):
            pixels[row, math.ceil(height) :], pixels[row, :, math.ceil(width) :] = 0, 0
        masks = [F.interpolate(pixels[None], level.shape[-2:])[0].bool() for level in levels]
        positions = [
            self.positions(shape=level.shape, device=level.device, dtype=torch.float32, mask=mask).to(level.dtype)
            for level, mask in zip(levels, masks, strict=True)
        ]
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        shapes = torch.tensor(sizes, device=features.device)
        shown = torch.stack([torch.stack([mask[:, :, 0].sum(1), mask[:, 0].sum(1)], dim=-1) for mask in masks], dim=1)
        arguments = {
            "spatial_shapes": shapes,
            "spatial_shapes_list": sizes,
            "level_start_index": torch.cat([shapes.new_zeros(1), shapes.prod(dim=1).cumsum(0)[:-1]]),
            "valid_ratios": (shown / shapes).flip(-1),
        }
        valid = torch.cat([mask.flatten(1) for mask in masks], dim=1)
        embedded = [item + level[:, None, None] for item, level in zip(positions, self.level_embed, strict=True)]
        encoded = self.encoder(
            inputs_embeds=_flat(levels), attention_mask=valid, spatial_position_embeddings=_flat(embedded), **arguments
        )
        return encoded.last_hidden_state, valid, shown.float(), arguments

    @torch.no_grad()
    def detect(
        self,
        features: Float[Tensor, "B h w D"],
        sizes: Sequence[tuple[int, int]],
        valid_sizes: Sequence[tuple[float, float]] | None = None,
        soft: float | None = None,
        queries: int | None = None,
    ) -> list[Detected]:
        """Detect objects in images of these stored heights and widths.

        `soft`: lower the scores of overlapping detections instead of dropping them, and return all that remain: see
        `suppress`. For the rest see `forward`.
        """
        (scores, boxes), _ = self(features, valid_sizes=valid_sizes, queries=queries)
        results, config = [], self.config
        considered, most = (CANDIDATES, config.most) if soft is None else (SOFT_CANDIDATES, None)
        images = zip(scores.float().sigmoid(), to_corners(boxes.float()), sizes, strict=True)
        for image_scores, corners, (height, width) in images:
            best, index = image_scores.flatten().topk(min(considered, image_scores.numel()))
            query, label = index // self.classes, index % self.classes
            limit = torch.tensor([width, height] * 2, device=best.device)
            pixels = torch.minimum((corners[query] * limit).clamp_min(0), limit)
            rows, lowered = suppress(pixels, best, label, config.overlap, soft, config.least_score)
            rows, lowered = rows[:most].cpu(), lowered[:most].cpu()
            labels = label.cpu()[rows] + 1
            results.append(Detected(pixels.cpu()[rows].numpy(), labels.numpy(), lowered.numpy(), None))
        return results


def _box_mlp(channels: int) -> nn.Sequential:
    """Make an MLP of three layers that initially leaves a box unchanged."""
    last = nn.Linear(channels, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), last)


def _flat(levels: Sequence[Tensor]) -> Tensor:
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)  # (B, N, C)


def sine_embedding(values: Float[Tensor, "B Q 4"], size: int) -> Float[Tensor, "B Q E"]:
    """Return each value, from 0 to 1, as `size` sines and cosines."""
    step = torch.arange(size, dtype=torch.float32, device=values.device)
    angles = values.float()[..., None] * 2 * math.pi / 10_000 ** (2 * (step // 2) / size)
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(2).to(values.dtype)


def anchors(sizes: Sequence[tuple[int, int]], valid_sizes: Float[Tensor, "B L 2"]) -> Float[Tensor, "B N 4"]:
    """Return the box (centre x, y, width, height, from 0 to 1) from which each patch of some levels proposes.

    `valid_sizes`: height and width, in patches, of the part of each level that shows the image.
    """
    boxes = []
    for level, (h, w) in enumerate(sizes):
        rows, columns = (torch.arange(side, device=valid_sizes.device) + 0.5 for side in (h, w))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        center = torch.stack([x, y], dim=-1) / valid_sizes[:, level, None, None].flip(-1)  # (B, h, w, 2)
        side = torch.full_like(center, SMALLEST_ANCHOR * 2.0**level)
        boxes.append(torch.cat([center, side], dim=-1).flatten(1, 2))
    return torch.cat(boxes, dim=1)


def choose_proposals(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], levels: Int[Tensor, " N"], count: int
) -> Int[Tensor, " Q"]:
    """Return the indices of an image's best proposals; `boxes`: corners; `levels`: the level of each.

    Duplicates within a level are suppressed; each level has an equal share, filled up by the best of the others.
    """
    from torchvision.ops import batched_nms

    count = min(count, len(scores))
    best = []
    for level in levels.unique():
        rows = torch.nonzero(levels == level)[:, 0]
        best.append(rows[scores[rows].topk(min(CONSIDERED, len(rows))).indices])
    candidates = torch.cat(best)
    kept = batched_nms(boxes[candidates].float(), scores[candidates].float(), levels[candidates], DUPLICATE)
    different = candidates[kept]
    if len(different) < count:
        return scores.topk(count).indices
    is_level = levels[different][None] == levels.unique()[:, None]  # (L, n)
    chosen = (is_level & (is_level.cumsum(dim=1) <= count // len(is_level))).any(dim=0)
    chosen[torch.nonzero(~chosen)[: count - int(chosen.sum()), 0]] = True
    return different[chosen]


PROPOSAL_OVERLAP, QUERY_OVERLAP = 0.7, 0.6
"""Minimum IoU at which an anchor or a query is assigned to an object."""
PROPOSAL_SAMPLE, QUERY_SHARE = 128, 0.25
"""Maximum number of assigned anchors drawn per image, and maximum share of assigned queries."""
COSTS = {"class": 1.0, "box": 5.0, "giou": 2.0}
"""Weights of the losses in all published scripts; the code's default for classes, 2, is unused."""
Truth = Sequence[tuple[Tensor, Tensor]]
"""Per image: boxes of objects (m, 4) as centre, width and height from 0 to 1, and classes (m,) from 0."""
Pairs = tuple[Int[Tensor, " p"], Int[Tensor, " p"]]
"""Predictions of an image and the objects assigned to them."""


def query_losses(
    layers: Sequence[tuple[Tensor, Tensor]], references: Float[Tensor, "B Q 4"], truth: Truth, most: int
) -> dict[str, Tensor]:
    """Return the second stage's unweighted losses of classes and boxes, summed over the decoder's layers.

    `layers`: scores (B, Q, K) and boxes (B, Q, 4). Queries are assigned once, by the boxes that they begin with.
    """
    sample = int(QUERY_SHARE * references.shape[1])
    pairs = _assign_images(references, truth, QUERY_OVERLAP, most, sample)
    losses = [_losses(scores, boxes, truth, pairs) for scores, boxes in layers]
    return {name: torch.stack([item[name] for item in losses]).sum() for name in COSTS}


def proposal_losses(
    scores: Float[Tensor, "B N K"],
    boxes: Float[Tensor, "B N 4"],
    anchors: Float[Tensor, "B N 4"],
    truth: Truth,
    most: int,
) -> dict[str, Tensor]:
    """Return the first stage's unweighted losses: whether an anchor belongs to any object, and its box.

    Any object is class 0; every unassigned anchor is background, however much it overlaps an object.
    """
    pairs = _assign_images(anchors, truth, PROPOSAL_OVERLAP, most, PROPOSAL_SAMPLE)
    return _losses(scores, boxes, [(objects, torch.zeros_like(labels)) for objects, labels in truth], pairs)


def _assign_images(boxes: Tensor, truth: Truth, overlap: float, most: int, sample: int) -> list[Pairs]:
    return [
        assign(to_corners(predicted), to_corners(objects), overlap, most, sample)
        for predicted, (objects, _) in zip(boxes, truth, strict=True)
    ]


def assign(boxes: Float[Tensor, "Q 4"], truth: Float[Tensor, "m 4"], overlap: float, most: int, sample: int) -> Pairs:
    """Return the pairs of boxes and objects (corners) that DETA assigns.

    A box belongs to the object that it overlaps most, some of these are drawn, and an object is assigned as many boxes
    as were drawn for it: those that overlap it most, whichever object they belong to.

    Args:
        overlap: Minimum IoU at which a box belongs to an object, but for the object's highest.
        most: Maximum number of boxes of an object.
        sample: Maximum number of boxes that are drawn, by torch's generator.
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
    """Return the focal loss of all classes, and L1 and GIoU of assigned boxes, divided by the number of objects."""
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    count = _object_count(truth, scores.device)
    labels = torch.zeros_like(scores)
    for row, ((index, target), (_, objects)) in enumerate(zip(pairs, truth, strict=True)):
        classes = torch.full_like(labels[row, :, 0], -1, dtype=torch.int64)
        classes[index] = objects[target]  # a box of two objects has the class of one
        known = torch.nonzero(classes >= 0)[:, 0]
        labels[row, known, classes[known]] = 1.0
    focal = sigmoid_focal_loss(scores.float(), labels.float(), alpha=0.25, gamma=2.0)
    predicted = torch.cat([item[index] for item, (index, _) in zip(boxes, pairs, strict=True)]).float()
    true_boxes = torch.cat([objects[target] for (objects, _), (_, target) in zip(truth, pairs, strict=True)])
    giou = generalized_box_iou_loss(to_corners(predicted), to_corners(true_boxes), reduction="sum", eps=1e-12)
    return {
        "class": focal.sum() / count,
        "box": F.l1_loss(predicted, true_boxes, reduction="sum") / count,
        "giou": giou / count,
    }


def _object_count(truth: Truth, device: torch.device) -> Tensor:
    """Return the number of objects in a batch, averaged over processes so that objects weigh equally; at least 1."""
    count = torch.tensor(float(sum(len(labels) for _, labels in truth)), device=device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp_min(1.0)


def to_corners(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Convert centre, width and height to left, top, right and bottom."""
    center, side = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - side / 2, center + side / 2], dim=-1)


def to_centers(boxes: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Convert left, top, right and bottom to centre, width and height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
