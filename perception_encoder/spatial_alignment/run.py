"""Run a spatial alignment: wire its configuration to images, teachers, the loop and a directory (section 5)."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.models.checkpoints.weights import load_model, weight_hash, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.registry import MODELS
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import Rank
from perception_encoder.spatial_alignment.batches import (
    Announce,
    AugmentedImages,
    SpatialBatches,
    cache_settings,
    fill_cache,
    held_out_batches,
)
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.images import open_images
from perception_encoder.spatial_alignment.mask_teachers import find_mask_teacher
from perception_encoder.spatial_alignment.plan import plan_spatial
from perception_encoder.spatial_alignment.task import SpatialAlignmentTask, Student
from perception_encoder.spatial_alignment.teacher_cache import SUFFIX, TeacherCache
from perception_encoder.spatial_alignment.validation import SpatialValidation
from perception_encoder.training.checkpoint import check_run, load_weights, run_directory, write_best
from perception_encoder.training.cost import RunCost
from perception_encoder.training.distributed import own_device, process_group, whole_model
from perception_encoder.training.loop import train
from perception_encoder.training.metrics import Listener, describe_run, write_record
from perception_encoder.training.seed import torch_generator
from perception_encoder.training.validation import choose_metric

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
PROCEDURE = 2
"""Rises when the same configuration and data give another result."""


def align_spatially(
    config: SpatialConfig,
    data: Sequence[Path],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or resume, a spatial alignment; return the weights that it wrote, `OUT/model.safetensors`.

    `data`: images as `open_images` finds them; videos with masks are for validation (`open_validation`). A validated
    run also writes `OUT/best.safetensors`. Raises ConfigError, DataError, CheckpointError, and OutputError, also if
    another run is training in `out`.
    """
    with process_group() as rank, run_directory(out):
        run = SpatialRun(config, data, out, rank, track)
        run.train(listener)
        return run.write()


def cache_masks(
    config: SpatialConfig, data: Sequence[Path], path: Path, track: Track = untracked, announce: Announce = logger.info
) -> int:
    """Cache the masks that a run needs, or go on; return how many there are. Raises what `fill_cache` does."""
    augmented = SpatialTrainee(config).augmented(own_device())
    images = [image for each in data for image in open_images(each)]
    return len(fill_cache(config, images, augmented, path, track, announce))


class SpatialRun:
    """A run's data, models and directory; raises what `align_spatially` does, before any step."""

    def __init__(self, config: SpatialConfig, data: Sequence[Path], out: Path, rank: Rank, track: Track) -> None:
        self.config, self.out, self.rank = config, out, rank
        device = own_device()
        trainee = self.trainee = SpatialTrainee(config)
        augmented = trainee.augmented(device)
        sources = {str(path): open_images(path) for path in data}
        share = config.validation.share if config.validation else 0.0
        training = {name: [each for each in source if not each.held_out(share)] for name, source in sources.items()}
        if config.masks and not any(augmented.has_masks(each) for source in training.values() for each in source):
            raise DataError(f"masks is {config.masks!r}, but no image has a mask; give rendered scenes, or another one")
        images = [image for source in sources.values() for image in source]
        keys = [f"{image.key} {image.image.size} {image.mask is not None}" for image in images]
        names = [f"procedure {PROCEDURE}", weight_hash(trainee.student.vision)]
        self.fingerprint = config.fingerprint([*names, trainee.teacher_hash, augmented.identity, *keys])
        check_run(out, self.fingerprint)
        self.record = describe_run(config, self.fingerprint, {name: len(each) for name, each in training.items()})
        if rank.number == 0:
            write_record(out, self.record)
        self.batches = SpatialBatches(config, trainee.student.vision.config, list(training.values()), augmented, rank)
        self.task = SpatialAlignmentTask(trainee.student, trainee.teacher, config)
        if trainee.teacher is not None:
            trainee.teacher.to(device)
        self.metric = ""
        if config.validation is not None:
            self.metric = choose_metric(config.validation, SpatialValidation.higher_is_better)
            held_out = [each for source in sources.values() for each in source if each.held_out(share)]
            apart = -(-len(held_out) // config.validation.size) or 1  # so that images of all sources are chosen
            batches = held_out_batches(config, held_out[::apart], augmented, track)
            videos = None if config.videos is None else Path(config.videos)
            self.task.validation = SpatialValidation(self.task, trainee.student, batches, augmented.grid, videos)

    def train(self, listener: Listener | None) -> None:
        """Train to the end."""
        (phase,), _ = plan_spatial(self.config)
        image = phase.flops() / phase.batch_size
        cost = RunCost(lambda batch: len(batch) * image, [(phase.steps, 1)])
        train(self.task, self.batches, self.config, self.out, self.fingerprint, listener, cost=cost)

    def write(self) -> Path:
        """Write the weights, and those of the best validated step; return the path of the former."""
        path = self.out / WEIGHTS
        whole_model(self.trainee.student)
        if self.rank.number == 0:
            self.trainee.write(path)
            write_record(self.out, self.record | write_best(path, self.config, self.metric, self._write_step))
        return path

    def _write_step(self, step: int, path: Path) -> None:
        trainee = SpatialTrainee(self.config)
        load_weights(self.out, step, trainee.student)
        trainee.write(path)


class SpatialTrainee:
    """The student of a run, and its frozen teacher at the size that gives the same grid of patches.

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

    def augmented(self, device: torch.device) -> AugmentedImages:
        """How images are made, with their masks by the teacher, from its cache, or their own; raises as those do."""
        config = self.config
        made = AugmentedImages(self.image_size, self.patch_size, config.augmentation, seed=config.seed)
        if config.masks is None:
            return made
        if config.masks.endswith(SUFFIX):
            cache = TeacherCache(Path(config.masks))
            cache.check(cache_settings(config, made, cache.settings.get("teacher", "")))
            return dataclasses.replace(made, cache=cache)
        return dataclasses.replace(made, teacher=find_mask_teacher(config.masks, device))

    def write(self, path: Path) -> None:
        """Write the student's tower."""
        vision = self.student.vision
        vision.name = spatial_name(vision)
        write_checkpoint(vision, path, self.config.half)


def spatial_name(vision: VisionTransformer) -> str:
    """The published PE-Spatial that a tower has the architecture of; of another one the nearest in width."""
    spatial = [entry for name, entry in MODELS.items() if "Spatial" in name]
    exact = [entry.name for entry in spatial if entry.vision == vision.config]
    return exact[0] if exact else min(spatial, key=lambda entry: abs(entry.vision.width - vision.config.width)).name


def _tower(name: str) -> VisionTransformer:
    """A model's vision tower with all of its layers, without norm and pooling."""
    model = load_model(name)
    vision = model.visual if isinstance(model, CLIP) else model
    return vision.truncate(-1)
