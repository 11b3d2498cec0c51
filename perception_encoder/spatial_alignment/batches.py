"""Find the images of a spatial alignment, and make its batches as a pure function of the step.

    PATH/*.tar or PATH/train/*.tar   KEY.jpg, and KEY.mask.png if there are masks
    PATH                             a directory of images, searched recursively, or one tar

An image is augmented once for all models, together with its mask. Hidden patches and dropped branches of the student
are drawn for the whole batch, so that several ranks draw what one process would.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from torch import Tensor

from perception_encoder.data.sampler import Position, WeightedSampler, first_usable
from perception_encoder.datasets.labelled import read_integers
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.formats.media_directory import list_media
from perception_encoder.formats.shards import MASK, split_member
from perception_encoder.formats.tars import TarMember, check_entry, open_tar
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.layers import drop_path
from perception_encoder.preprocess.augmentation import DRAWS, Augmentation, augment, crop
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.source import IMAGE_SUFFIXES, SHARD_IMAGES, open_source
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import Rank
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.mask_teachers import FORMAT, Sam, TeacherCache, mask_tokens, one_hot_masks
from perception_encoder.spatial_alignment.task import SpatialBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlignmentImage:
    """An image, with its object mask if there is one."""

    key: str  # name in its dataset; not unique across datasets
    name: str  # path, with the name in its tar
    image: Path | TarMember
    size: int  # bytes
    mask: TarMember | None = None

    def held_out(self, share: float) -> bool:
        """Return whether the image is held out for validation, which depends only on its name."""
        digest = hashlib.blake2b(self.key.encode(errors="surrogatepass"), digest_size=4).digest()
        return int.from_bytes(digest) < share * 2**32

    def read(self) -> bytes:
        """Return the image's bytes; InputError if they cannot be read."""
        if isinstance(self.image, TarMember):
            return self.image.read(self.name)
        with open_source(self.image, self.name) as (stream, _):
            return stream.read()

    def open(
        self, with_mask: bool = True, content: bytes | None = None
    ) -> tuple[UInt8[Tensor, "3 H W"], Int[Tensor, "H W"] | None]:
        """Decode the image and, with `with_mask`, its mask; InputError if that fails or their sizes differ.

        `content`: the image's bytes, if they have been read already.
        """
        pixels = np.array(open_image(self.read() if content is None else content, self.name).convert("RGB"))
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.mask is None or not with_mask:
            return image, None
        name = f"the mask of {self.name}"
        requirement = "a mask must have one channel or a palette"
        mask = read_integers(self.mask.read(name), name, ("1", "L", "P", "I", "I;16"), requirement)[0].astype(np.int64)
        if mask.shape != pixels.shape[:2]:
            found, expected = (f"{width}x{height}" for height, width in (mask.shape, pixels.shape[:2]))
            raise InputError(name, f"is {found} pixels, but its image is {expected}")
        return image, torch.from_numpy(mask)


def open_images(path: Path) -> list[AlignmentImage]:
    """Find the images of a path, see the module; DataError if there are none or a tar is damaged."""
    tars = [path] if path.suffix == ".tar" else sorted(path.glob("*.tar")) or sorted((path / "train").glob("*.tar"))
    if tars:
        images = [image for tar in tars for image in _of_tar(tar)]
    elif path.is_dir():
        files = [file for file in list_media(path) if file.suffix.lower() in IMAGE_SUFFIXES]
        images = [AlignmentImage(str(file.relative_to(path)), str(file), file, file.stat().st_size) for file in files]
    else:
        raise DataError(f"{path} does not exist; give a directory of images or of tars")
    if not images:
        raise DataError(f"{path} has no images")
    return images


def _of_tar(tar: Path) -> list[AlignmentImage]:
    images: dict[str, tuple[str, TarMember]] = {}
    masks: dict[str, TarMember] = {}
    with open_tar(tar) as (_, entries):
        for entry in entries:
            key, extension = split_member(entry.name)
            if extension in (*SHARD_IMAGES, MASK):
                check_entry(entry)
            member = TarMember(tar, entry.offset, entry.size)
            if extension in SHARD_IMAGES:
                images[key] = f"{tar}/{entry.name}", member
            elif extension == MASK:
                masks[key] = member
    return [
        AlignmentImage(f"{tar.stem}/{key}", name, member, member.size, masks.get(key))
        for key, (name, member) in images.items()
    ]


@dataclass(frozen=True)
class AugmentedImages:
    """Makes images as all models see them, with their mask teacher's tokens."""

    size: int  # side of the images in pixels
    patch: int
    augmentation: Augmentation | None
    teacher: Sam | TeacherCache | None = None  # None uses the masks in the data
    seed: int = 0  # seed of the copies' augmentations

    @property
    def grid(self) -> tuple[int, int]:
        return self.size // self.patch, self.size // self.patch

    def has_masks(self, image: AlignmentImage) -> bool:
        return self.teacher is not None or image.mask is not None

    def make(
        self, image: AlignmentImage, draw: Sequence[float] | int, masks: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return the image (3, S, S), uint8, and with `masks` the mask teacher's tokens (N, P), if any.

        `draw`: the random numbers of the augmentation, or the number of a copy, whose random numbers depend only on the
        seed and the image's content. Cached masks are those of copies. Raises InputError for an image or mask that
        cannot be decoded, and for an image smaller than a patch.
        """
        content = image.read()
        digest, copy = bytes_digest(content), draw if isinstance(draw, int) else 0
        if isinstance(draw, int):
            draw = copy_draw(self.seed, digest, copy)
        pixels, ids = image.open(masks and self.teacher is None, content)
        height, width = pixels.shape[1:]
        if min(height, width) < self.patch:
            raise InputError(image.name, f"is {width}x{height} pixels, smaller than a patch of {self.patch}")
        augmented = augment(pixels, self.size, self.augmentation, draw)
        if not (masks and self.has_masks(image)):
            return augmented, None
        if isinstance(self.teacher, TeacherCache):
            return augmented, self.teacher.get(digest, copy, self.grid[0] * self.grid[1], image.name)
        if self.teacher is not None:
            return augmented, mask_tokens(self.teacher.masks(augmented), self.grid)
        assert ids is not None
        return augmented, mask_tokens(one_hot_masks(crop(ids, self.augmentation, draw)), self.grid)


class SpatialBatches:
    """Makes a rank's share of the batch of each step."""

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
        self._bad = set[str]()

    def __call__(self, step: int) -> SpatialBatch:
        config, drawn = self.config, self.sampler.positions(step)
        share = self.rank.share(len(drawn))
        draws = np.random.default_rng([config.seed, 2, step]).random((len(drawn), DRAWS + 1))
        made = [self._make(drawn[row], draws[row].tolist()) for row in range(len(drawn))[share]]
        masked = [self.augmented.has_masks(self.sources[at[0]][self.sampler.index(at)]) for at in drawn]
        generator = torch_generator(config.seed, 3, step)
        hidden = branches = None
        if config.masking is not None:
            hidden = config.masking.draw(len(drawn), self.augmented.grid, generator)[share]
        if config.drop_path:
            branches = drop_path(self.depth, len(drawn), config.drop_path, generator)[..., share]
        mask_share = sum(masked[share]) / max(1, sum(masked))
        return _batch(made, share=len(made) / len(drawn), mask_share=mask_share, hidden=hidden, branches=branches)

    def _make(self, position: Position, draw: Sequence[float]) -> tuple[Tensor, Tensor | None]:
        config, images = self.config, self.sources[position[0]]
        chosen = int(draw[DRAWS] * config.copies) if config.copies else draw[:DRAWS]

        def make(index: int) -> tuple[Tensor, Tensor | None]:
            return self.augmented.make(images[index], chosen, bool(config.masks and config.masks_weight))

        index = partial(self.sampler.index, position)
        return first_usable(index, make, lambda row: images[row].name, self._bad)


def bytes_digest(content: bytes) -> str:
    """Return a hash of a file's bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def copy_draw(seed: int, digest: str, copy: int) -> list[float]:
    """Return the random numbers of a copy's augmentation, the same in every epoch."""
    return np.random.default_rng([seed, 5, int(digest, 16), copy]).random(DRAWS).tolist()


def cache_settings(config: SpatialConfig, augmented: AugmentedImages) -> dict[str, Any]:
    """Return the settings that a cache of masks depends on besides the teacher; it replays the same augmentations."""
    return {
        "format": FORMAT,
        "image_size": augmented.size,
        "patch": augmented.patch,
        "seed": config.seed,
        "copies": config.copies,
        "augmentation": None if config.augmentation is None else asdict(config.augmentation),
    }


def fill_cache(
    config: SpatialConfig,
    images: Sequence[AlignmentImage],
    augmented: AugmentedImages,
    path: Path,
    track: Track = untracked,
) -> TeacherCache:
    """Cache the masks of all copies of images, or resume.

    Unusable images are skipped and logged. Raises OutputError for a cache with other settings and ConfigError without
    copies.
    """
    if not config.copies or augmented.teacher is None or isinstance(augmented.teacher, TeacherCache):
        raise ConfigError("to cache masks, set copies to the number of augmentations per image, and masks to a teacher")
    settings = {"teacher": augmented.teacher.identity, **cache_settings(config, augmented)}
    with closing(TeacherCache(path, settings, create=True)) as cache:
        for image in track(images, "caching masks", len(images)):
            try:
                digest = bytes_digest(image.read())
                for copy in range(config.copies):
                    if (digest, copy) not in cache:
                        _, tokens = augmented.make(image, copy)
                        assert tokens is not None
                        cache.put(digest, copy, tokens)
            except InputError as error:
                logger.warning("skipped %s", error)
    return cache


def held_out_batches(
    config: SpatialConfig, images: Sequence[AlignmentImage], augmented: AugmentedImages, track: Track
) -> list[SpatialBatch]:
    """Return batches without hidden patches: whole images, or their first copies if masks are cached."""
    used, batches = bool(config.masks and config.masks_weight), []
    whole = augmented if isinstance(augmented.teacher, TeacherCache) else replace(augmented, augmentation=None)
    starts = range(0, len(images), config.batch_size)
    for start in track(starts, "reading the validation images", len(starts)):
        made = []
        for image in images[start : start + config.batch_size]:
            try:
                made.append(whole.make(image, 0, used))
            except InputError as error:
                logger.warning("skipped %s", error)
        if made:
            batches.append(_batch(made, share=1.0))
    return batches


def _batch(made: Sequence[tuple[Tensor, Tensor | None]], share: float, **others: Any) -> SpatialBatch:
    rows = [row for row, (_, tokens) in enumerate(made) if tokens is not None]
    masks = [tokens for _, tokens in made if tokens is not None]
    widest = max((tokens.shape[1] for tokens in masks), default=0)
    masks = [F.pad(tokens, (0, widest - tokens.shape[1])) for tokens in masks]  # zeros do not change cosines
    if rows:
        others |= {"masks": torch.stack(masks), "rows": torch.tensor(rows)}
    return SpatialBatch(images=torch.stack([image for image, _ in made]), share=share, **others)
