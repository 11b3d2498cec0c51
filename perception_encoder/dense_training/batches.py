"""Read images with their targets, augment them, and make batches as a pure function of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from perception_encoder.data.pairs import ImageBatch
from perception_encoder.data.sampler import Position, WeightedSampler, first_usable
from perception_encoder.dense_training.config import DenseConfig
from perception_encoder.errors import needs_extra
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.layers import drop_path
from perception_encoder.ranks import Rank

Targets = dict[str, Tensor]
"""Depth: "depth" (H, W) in metres. Segmentation: "labels" (H, W). Detection: "boxes" (m, 4), "labels" and "masks";
after augmentation also "inside", the height and width of the part of the square that shows the image."""


@dataclass(frozen=True)
class DenseSamples:
    """A dataset's images with their targets."""

    dataset: Any
    targets: Callable[[Any, int], Targets]
    """`targets(dataset, index)` decodes those of an image."""

    @property
    def keys(self) -> Sequence[str]:
        keys: Sequence[str] = self.dataset.keys
        return keys

    def read(self, index: int) -> tuple[Image.Image, Targets]:
        """Decode an RGB image and its targets in its pixels; InputError or DataError if that fails."""
        image: Image.Image = self.dataset.open(index)
        targets = self.targets(self.dataset, index)
        if "boxes" not in targets:  # those are of an image of their size
            height, width = next(iter(targets.values())).shape
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BICUBIC)
        return image, targets


WHOLE, SHORT, CROP = 480, (400, 500, 600), (384, 600)
"""Pixels in DETA's augmentation: the least short side of a whole image, short sides before a crop, sides of a crop."""


@dataclass(frozen=True)
class Augmenter:
    """Large-scale jitter to a square, or DETA's, and mirroring (Ghiasi et al., 2021), by torchvision's functions.

    Its transform classes would draw from torch's global generator, which the detector uses in another thread.
    """

    size: int  # side of the square in pixels
    scales: tuple[float, float] | None  # see `DenseConfig.scales`
    flip: float
    padding: Sequence[int]  # pixel for the area to the right of the image and below it; see `Tower.padding`

    def __call__(
        self, image: Image.Image, targets: Targets, generator: torch.Generator
    ) -> tuple[UInt8[Tensor, "3 S S"], Targets]:
        """Return the augmented image and targets, without objects that were cropped away.

        MissingExtraError without torchvision.
        """
        with needs_extra("eval", "torchvision"):
            from torchvision import tv_tensors as tv
            from torchvision.transforms.v2 import InterpolationMode
            from torchvision.transforms.v2 import functional as v2
        flip, *drawn = torch.rand(4, generator=generator).tolist()
        whole = [image.height, image.width]
        if self.scales is None:
            sides, region, shown = self._like_deta(whole, [*drawn, *torch.rand(3, generator=generator).tolist()])
        else:
            sides, region, shown = self._jitter(whole, self.scales, drawn)

        def resize(value: Any, sides: list[int]) -> Any:
            if isinstance(value, tv.Mask):  # by `v2.resize` a mask would move by half a pixel
                return tv.Mask(v2.resize_image(value[None], sides, InterpolationMode.NEAREST_EXACT)[0])
            return v2.resize(value, sides, antialias=True)

        def move(value: Any, fill: Any = 0) -> Any:
            value = v2.horizontal_flip(value) if flip < self.flip else value
            value = v2.crop(resize(value, sides), *region)
            value = v2.clamp_bounding_boxes(value) if isinstance(value, tv.BoundingBoxes) else value
            value = value if shown == region[2:] else resize(value, shown)
            return v2.pad(value, [0, 0, self.size - shown[1], self.size - shown[0]], fill=fill)

        moved: Targets = {}
        for name, value in targets.items():
            if name == "boxes":
                wrapped: Any = tv.BoundingBoxes(value, format="XYXY", canvas_size=(image.height, image.width))
            else:
                wrapped = tv.Mask(value)
            moved[name] = value if name == "labels" and value.ndim == 1 else move(wrapped).as_subclass(Tensor)
        if "boxes" in moved:
            moved = {**_seen(moved), "inside": torch.tensor(shown)}
        return move(v2.to_image(image), list(self.padding)).as_subclass(Tensor), moved

    def _jitter(self, whole: list[int], scales: tuple[float, float], drawn: list[float]) -> tuple[list[int], ...]:
        """Return the sides (height, width) to scale an image to, the region (top, left, height, width), and its sides.

        `drawn`: numbers from 0 to 1.
        """
        ratio = self.size / max(whole) * (scales[0] + drawn[0] * (scales[1] - scales[0]))
        sides = [max(1, round(side * ratio)) for side in whole]
        shown = [min(side, self.size) for side in sides]
        starts = (round(part * (side - kept)) for part, side, kept in zip(drawn[1:], sides, shown, strict=True))
        return sides, [*starts, *shown], shown

    def _like_deta(self, whole: list[int], drawn: list[float]) -> tuple[list[int], ...]:
        """Return the same for DETA's augmentation: half the images whole, of the others a crop, enlarged."""
        kind, *places, side, high, wide = drawn
        if kind < 0.5:
            shorts = range(WHOLE, self.size, 32) or [self.size]
            shown = _fitted(whole, shorts[int(side * len(shorts))], self.size)
            return shown, [0, 0, *shown], shown
        sides = _fitted(whole, SHORT[int(side * len(SHORT))])
        most = [min(length, CROP[1]) - CROP[0] for length in sides]
        crop = [CROP[0] + int(part * (more + 1)) for part, more in zip((high, wide), most, strict=True)]
        starts = (int(part * (length - kept + 1)) for part, length, kept in zip(places, sides, crop, strict=True))
        return sides, [*starts, *crop], _fitted(crop, self.size, self.size)


def _fitted(sides: Sequence[int], short: int, most: float = math.inf) -> list[int]:
    """Return an image's sides scaled to a short side, or to a long side of `most` if that is smaller."""
    ratio = min(short / min(sides), most / max(sides))
    return [max(1, round(side * ratio)) for side in sides]


def _seen(targets: Targets) -> Targets:
    """Return the objects that are still visible, with boxes fitted to the masks if there are any."""
    if "masks" in targets:
        from torchvision.ops import masks_to_boxes

        visible = targets["masks"].bool().flatten(1).any(dim=1)
        targets = {name: value[visible] for name, value in targets.items()}
        edges = torch.tensor([0.0, 0, 1, 1])  # the last pixels are inside
        return {**targets, "boxes": masks_to_boxes(targets["masks"]).reshape(-1, 4) + edges}
    boxes = targets["boxes"]
    visible = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=1)
    return {name: value[visible] for name, value in targets.items()}


@dataclass(frozen=True, kw_only=True)
class DenseBatch(ImageBatch):
    """A rank's share of a batch."""

    targets: list[Targets]
    draw: int  # step number; it seeds the sampling of a detector's regions
    branches: Float[Tensor, "L 2 B"] | None = None  # factors of the encoder's residual branches


class DenseBatches:
    """Makes a rank's share of the batch of each step."""

    def __init__(
        self,
        config: DenseConfig,
        samples: DenseSamples,
        rank: Rank,
        depth: int,
        padding: Sequence[int],
        factors: Float[Tensor, " n"] | None = None,
    ) -> None:
        """Prepare to draw a rank's share of batches.

        Args:
            depth: Blocks of the encoder.
            padding: See `Augmenter`.
            factors: How often each image is shown in an epoch, on average; by default once.
        """
        self.config, self.samples, self.rank, self.depth = config, samples, rank, depth
        self.sampler: WeightedSampler | RepeatSampler = (
            WeightedSampler([len(samples.keys)], [1.0], config.batch_size, config.seed)
            if factors is None
            else RepeatSampler(factors, config.batch_size, config.seed)
        )
        self.augmenter = Augmenter(config.image_size, config.scales, config.flip, padding)
        self._bad = set[str]()

    def __call__(self, step: int) -> DenseBatch:
        drawn = self.sampler.positions(step)
        share = self.rank.share(len(drawn))
        rows, branches = range(len(drawn))[share], None
        if self.config.drop_path:
            generator = torch_generator(self.config.seed, 3, step)
            branches = drop_path(self.depth, len(drawn), self.config.drop_path, generator, linear=True)[..., share]
        made = [self._make(drawn[row], torch_generator(self.config.seed, 2, step, row)) for row in rows]
        return DenseBatch(
            images=torch.stack([image for image, _ in made]),
            share=len(made) / len(drawn),
            targets=[targets for _, targets in made],
            draw=step,
            branches=branches,
        )

    def _make(self, position: Position, generator: torch.Generator) -> tuple[UInt8[Tensor, "3 S S"], Targets]:
        def make(index: int) -> tuple[UInt8[Tensor, "3 S S"], Targets]:
            return self.augmenter(*self.samples.read(index), generator)

        index = partial(self.sampler.index, position)
        return first_usable(index, make, lambda row: self.samples.keys[row], self._bad)


class RepeatSampler:
    """Shows each image as often per epoch as its factor, rounded up or down at random in each epoch."""

    def __init__(self, factors: Float[Tensor, " n"], batch_size: int, seed: int) -> None:
        self.factors, self.batch_size, self.seed = factors, batch_size, seed
        self._ends: list[int] = []
        self._order: tuple[int, list[int]] = (-1, [])

    def positions(self, step: int) -> list[Position]:
        return [(0, place) for place in range(step * self.batch_size, (step + 1) * self.batch_size)]

    def index(self, position: Position, later: int = 0) -> int:
        place = position[1] + later * self.batch_size
        while not self._ends or self._ends[-1] <= place:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self.epoch(len(self._ends))))
        number = bisect_right(self._ends, place)
        if self._order[0] != number:
            self._order = number, self.epoch(number)
        return self._order[1][place - self._ends[number]]  # from the end: negative

    def epoch(self, number: int) -> list[int]:
        generator = torch_generator(self.seed, 7, number)
        drawn = torch.rand(len(self.factors), generator=generator)
        times = self.factors.floor() + (drawn < self.factors - self.factors.floor())
        rows = torch.repeat_interleave(torch.arange(len(times)), times.long())
        return rows[torch.randperm(len(rows), generator=generator)].tolist()
