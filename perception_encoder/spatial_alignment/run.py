"""Run a spatial alignment (section 5)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.models.checkpoints.weights import load_model, weight_hash, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import drawn_from, torch_generator
from perception_encoder.models.registry import MODELS
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.progress import Track, untracked
from perception_encoder.spatial_alignment.batches import (
    AugmentedImages,
    SpatialBatches,
    cache_settings,
    fill_cache,
    held_out_batches,
    open_images,
)
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.mask_teachers import SCENES, Sam, TeacherCache
from perception_encoder.spatial_alignment.task import SpatialAlignmentTask, SpatialValidation, Student
from perception_encoder.store import SETTINGS
from perception_encoder.training.distributed import own_device, this_rank
from perception_encoder.training.loop import Section
from perception_encoder.training.metrics import Listener
from perception_encoder.training.run import StageRun, run_stage

PROCEDURE = 2  # increase when the same configuration and data give another result


def align_spatially(
    config: SpatialConfig, data: Sequence[Path], out: Path, track: Track = untracked, listener: Listener | None = None
) -> Path:
    """Align a tower spatially, or resume; return the written weights, `OUT/model.safetensors`.

    `data`: images as `open_images` finds them. Raises ConfigError, DataError and what `run_stage` does.
    """
    return run_stage(lambda: SpatialRun(config, data, out), out, track, listener)


def cache_masks(config: SpatialConfig, data: Sequence[Path], path: Path, track: Track = untracked) -> int:
    """Cache the masks that a run needs, or resume; return their number. Raises what `fill_cache` does."""
    augmented = SpatialTrainee(config).augmented(own_device())
    images = [image for path in data for image in open_images(path)]
    return len(fill_cache(config, images, augmented, path, track))


class SpatialRun(StageRun):
    """A run of spatial alignment: the student, its teachers and the images."""

    config: SpatialConfig
    trainee: SpatialTrainee

    def __init__(self, config: SpatialConfig, data: Sequence[Path], out: Path) -> None:
        super().__init__(config, out, SpatialValidation.higher_is_better)
        self.trainee = SpatialTrainee(config)
        self.augmented = self.trainee.augmented(own_device())
        sources = {str(path): open_images(path) for path in data}
        share = config.validation.share if config.validation else 0.0
        self.training = {
            name: [image for image in images if not image.held_out(share)] for name, images in sources.items()
        }
        images = [image for source in sources.values() for image in source]
        self.held_out = [image for image in images if image.held_out(share)]
        if not self.held_out and config.videos is None:
            self.config = dataclasses.replace(config, validation=None)
        masked = any(self.augmented.has_masks(image) for source in self.training.values() for image in source)
        if config.masks and not masked:
            raise DataError(
                f"masks is {config.masks!r}, but no image has a mask; use images with masks, or another mask teacher"
            )
        keys = [f"{image.key} {image.size} {image.mask is not None}" for image in images]
        teacher = "" if self.augmented.teacher is None else self.augmented.teacher.identity
        weights = [weight_hash(self.trainee.student.vision), self.trainee.teacher_hash, teacher]
        self.identity = [f"procedure {PROCEDURE}", *weights, *keys]
        self.samples = {name: len(source) for name, source in self.training.items()}
        self.loaded = {"student": config.model}
        if self.trainee.teacher is not None:
            self.loaded["teacher"] = config.teacher or config.model

    def sections(self, track: Track) -> Iterator[Section]:
        config, trainee = self.config, self.trainee
        sources = list(self.training.values())
        batches = SpatialBatches(config, trainee.student.vision.config, sources, self.augmented, this_rank())
        task = SpatialAlignmentTask(trainee.student, trainee.teacher, config)
        if trainee.teacher is not None:
            trainee.teacher.to(own_device())
        if config.validation is not None:
            every = -(-len(self.held_out) // config.validation.size) or 1  # so that images of all sources are chosen
            held_out = held_out_batches(config, self.held_out[::every], self.augmented, track)
            videos = None if config.videos is None else Path(config.videos)
            task.validation = SpatialValidation(task, trainee.student, held_out, self.augmented.grid, videos)
        yield Section(task, batches)


class SpatialTrainee:
    """The student and its frozen teacher, at the size with the same grid of patches.

    Raises ConfigError for an image size that is not a multiple of the patch.
    """

    def __init__(self, config: SpatialConfig) -> None:
        self.config = config
        vision = _tower(config.model)
        self.image_size = config.image_size or vision.config.image_size
        self.patch_size = vision.config.patch_size
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size is {self.image_size}; it must be a multiple of the patch, {self.patch_size}")
        vision.set_image_size(self.image_size)
        self.teacher, self.teacher_hash = None, ""
        if config.core_weight or config.pairs_weight:
            teacher = copy.deepcopy(vision) if config.teacher is None else _tower(config.teacher)
            teacher.set_image_size(self.image_size // self.patch_size * teacher.config.patch_size)
            self.teacher = teacher.truncate(config.teacher_layer).requires_grad_(False).eval()
            self.teacher_hash = weight_hash(self.teacher)
        if config.layer_scale is not None and vision.config.layer_scale is None:
            vision.add_layer_scale(config.layer_scale)
        width = vision.config.width if self.teacher is None else self.teacher.config.width
        with drawn_from(torch_generator(config.seed, 4)):
            self.student = Student(vision, width)
        vision.set_grad_checkpointing(config.parallel.checkpointing)

    @property
    def module(self) -> Student:
        return self.student

    def augmented(self, device: torch.device) -> AugmentedImages:
        """Return the maker of images, with masks from the teacher, its cache or the data; raises what those do."""
        config = self.config
        made = AugmentedImages(self.image_size, self.patch_size, config.augmentation, seed=config.seed)
        if config.masks in (None, SCENES):
            return made
        if (Path(config.masks) / SETTINGS).is_file():
            return dataclasses.replace(made, teacher=TeacherCache(Path(config.masks), cache_settings(config, made)))
        return dataclasses.replace(made, teacher=Sam.load(config.masks, device))

    def write(self, path: Path) -> None:
        vision = self.student.vision
        vision.name = spatial_name(vision)
        write_checkpoint(vision, path, self.config.half)


def spatial_name(vision: VisionTransformer) -> str:
    """Return the published PE-Spatial with a tower's architecture, or the closest in width."""
    spatial = [entry for name, entry in MODELS.items() if "Spatial" in name]
    exact = [entry.name for entry in spatial if entry.vision == vision.config]
    return exact[0] if exact else min(spatial, key=lambda entry: abs(entry.vision.width - vision.config.width)).name


def _tower(name: str) -> VisionTransformer:
    """Return a model's vision tower with all layers but without norm and pooling."""
    model = load_model(name)
    vision = model.visual if isinstance(model, CLIP) else model
    return vision.truncate(-1)
