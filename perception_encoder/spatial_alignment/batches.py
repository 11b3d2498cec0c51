"""Make the batches of a spatial alignment: a pure function of the step.

An image is drawn, augmented once for all models, and its mask with it; what is hidden of it and which branches of the
student are left out are drawn for the whole batch, so that ranks draw what one process would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception_encoder.data.sampler import WeightedSampler
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.layers.block import drop_path
from perception_encoder.preprocess.augmentation import DRAWS, Augmentation, augment, crop
from perception_encoder.ranks import Rank
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.images import AlignmentImage
from perception_encoder.spatial_alignment.mask_teachers import MaskTeacher, mask_tokens, one_hot_masks
from perception_encoder.spatial_alignment.task import SpatialBatch
from perception_encoder.spatial_alignment.teacher_cache import TeacherCache
from perception_encoder.train.seed import torch_generator


class AugmentedImages:
    """Images as all models see them, and their mask teacher's tokens.

    `teacher`: None for the masks that images have themselves. `cache`: where its tokens are kept.
    """

    def __init__(
        self,
        size: int,
        patch: int,
        augmentation: Augmentation | None,
        teacher: MaskTeacher | None,
        cache: TeacherCache | None = None,
    ) -> None:
        self.size, self.augmentation, self.teacher, self.cache = size, augmentation, teacher, cache
        self.grid = size // patch, size // patch

    def has_masks(self, image: AlignmentImage) -> bool:
        """Whether there are masks of an image."""
        return self.teacher is not None or image.mask is not None

    def make(self, image: AlignmentImage, draw: Sequence[float], masks: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return the image (3, S, S), uint8, and the mask teacher's tokens (N, P) if `masks` and it has any.

        Raises InputError for an image or mask that cannot be decoded.
        """
        pixels, ids = image.open()
        augmented = augment(pixels, self.size, self.augmentation, draw)
        if not (masks and self.has_masks(image)):
            return augmented, None
        if self.teacher is not None:
            return augmented, mask_tokens(self.teacher.masks(augmented), self.grid)
        assert ids is not None
        return augmented, mask_tokens(one_hot_masks(crop(ids, self.augmentation, draw)), self.grid)


class SpatialBatches:
    """A rank's part of the batch of each step."""

    def __init__(
        self,
        config: SpatialConfig,
        vision: VisionConfig,
        sources: Sequence[Sequence[AlignmentImage]],
        augmented: AugmentedImages,
        rank: Rank,
    ) -> None:
        sizes = [len(source) for source in sources]
        self.sampler = WeightedSampler(sizes, sizes, config.batch_size, config.seed)
        self.config, self.sources, self.augmented, self.rank = config, sources, augmented, rank
        self.depth = vision.depth

    def __call__(self, step: int) -> SpatialBatch:
        config, drawn = self.config, self.sampler.batch(step)
        images = [self.sources[source][index] for source, index in drawn]
        own = self.rank.share(len(drawn))
        draws = np.random.default_rng([config.seed, 2, step]).random((len(drawn), DRAWS))
        used = bool(config.masks and config.masks_weight)
        made = [self.augmented.make(images[row], draws[row].tolist(), used) for row in range(len(drawn))[own]]
        with_masks = [row for row, (_, tokens) in enumerate(made) if tokens is not None]
        all_with_masks = sum(self.augmented.has_masks(image) for image in images)
        generator = torch_generator(config.seed, 3, step)
        hidden = branches = None
        if config.masking is not None:
            hidden = config.masking.draw(len(drawn), self.augmented.grid, generator)[own]
        if config.drop_path:
            branches = drop_path(self.depth, len(drawn), config.drop_path, generator)[..., own]
        return SpatialBatch(
            images=torch.stack([image for image, _ in made]),
            hidden=hidden,
            branches=branches,
            masks=_padded([tokens for _, tokens in made if tokens is not None]) if with_masks else None,
            rows=torch.tensor(with_masks) if with_masks else None,
            share=len(made) / len(drawn),
            mask_share=len(with_masks) / max(1, all_with_masks),
        )


def _padded(tokens: Sequence[Tensor]) -> Tensor:
    """Stack tokens (N, P) of several widths; zeros at the end change no cosine."""
    widest = max(each.shape[1] for each in tokens)
    return torch.stack([F.pad(each, (0, widest - each.shape[1])) for each in tokens])
