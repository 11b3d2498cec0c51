"""Run the training of a head: wire its configuration to a dataset, an encoder, the loop and a directory."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from perception_encoder.datasets.class_masks import read_class_splits
from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.datasets.rgbd import read_depth_splits
from perception_encoder.dense_prediction.dense_model import (
    METADATA,
    Backbone,
    DenseModel,
    HeadInfo,
    make_head,
    padded_inputs,
    padding_pixel,
    write_head,
)
from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector, DetectorHeadConfig
from perception_encoder.dense_prediction.detection.roi_heads import class_frequencies, repeat_factors
from perception_encoder.dense_prediction.head_fitting import Standardize
from perception_encoder.dense_prediction.published_detectors import published_detector
from perception_encoder.dense_training.batches import DenseBatches
from perception_encoder.dense_training.config import DenseConfig, DepthTrainingConfig, DetectorConfig, SegmenterConfig
from perception_encoder.dense_training.samples import ClassSamples, DenseSamples, DepthSamples, ObjectSamples
from perception_encoder.dense_training.task import DenseTask, trained_part
from perception_encoder.dense_training.validation import DenseValidation
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.inference.load import load_tower
from perception_encoder.models.checkpoints.files import read_checkpoint
from perception_encoder.models.checkpoints.layouts import StateDict
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.registry import portable_name
from perception_encoder.models.tower import Tower
from perception_encoder.preprocess.source import escape_name
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import ALONE, Rank
from perception_encoder.training.checkpoint import check_run, load_weights, run_directory, write_best
from perception_encoder.training.distributed import own_device, process_group, whole_model
from perception_encoder.training.loop import train
from perception_encoder.training.metrics import Listener, describe_run, write_record
from perception_encoder.training.seed import torch_generator
from perception_encoder.training.validation import choose_metric

logger = logging.getLogger(__name__)

WEIGHTS = "head.safetensors"
PROCEDURE = 2
"""Rises when the same configuration and data give another result."""
MEASURED = 64
"""Images by which the head's input is standardised."""


def train_dense(
    config: DenseConfig,
    data: Sequence[Path],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or resume, the training of a head; return the file that it wrote, `OUT/head.safetensors`.

    `data`: one dataset with a training and a test set. A validated run also writes `OUT/best.safetensors`. Before the
    first step it is logged what was loaded, what is frozen and what begins with random weights. Raises ConfigError,
    DataError, CheckpointError, and OutputError, also if another run is training in `out`.
    """
    with process_group() as rank, run_directory(out):
        run = DenseRun(config, data, out, rank, track)
        run.train(listener)
        return run.write()


class DenseRun:
    """A run's data, model and directory; raises what `train_dense` does, before any step."""

    def __init__(self, config: DenseConfig, data: Sequence[Path], out: Path, rank: Rank, track: Track) -> None:
        if len(data) != 1:
            raise ConfigError(f"{len(data)} datasets were given; a head is trained on one: repeat --data no more")
        self.config, self.out, self.rank = config, out, rank
        samples, held_out, classes = read_samples(config, data[0])
        self.tower, layer = open_tower(config)
        self.info = describe_head(config, self.tower, layer, samples, classes)
        keys = [f"procedure {PROCEDURE}", self.tower.weight_hash, *samples.keys, *classes]
        if config.initial is not None:
            keys.append(state_hash(read_initial(Path(config.initial))))
        self.fingerprint = config.fingerprint(keys)
        check_run(out, self.fingerprint)
        self.record = describe_run(config, self.fingerprint, {str(data[0]): len(samples.keys)})
        if rank.number == 0:
            write_record(out, self.record)
        self.model = self._make()
        make = partial(
            DenseBatches,
            config,
            samples,
            depth=self.model.backbone.depth,
            padding=padding_pixel(self.tower),
            factors=self._factors(samples),
        )
        self.batches = make(rank=rank)
        if config.initial is None:
            self._measure(make(rank=ALONE))
        self.task, self.metric = DenseTask(self.model, config), ""
        if config.validation is not None:
            validation = DenseValidation(self.model, held_out, config.validation.size, config.image_size)
            self.task.validation = validation
            self.metric = choose_metric(config.validation, validation.higher_is_better)

    def _make(self) -> DenseModel:
        config = self.config
        backbone = Backbone(
            self.tower,
            self.info.layer,
            config.frozen,
            config.windows,
            config.image_size,
            padded_inputs(self.info, self.tower),
        )
        with drawn_from(torch_generator(config.seed, 4)):
            model = DenseModel(backbone, make_head(self.info, backbone.width)).to(own_device())
        if config.initial is not None:
            load_initial(model, Path(config.initial))
        if not config.frozen:
            freeze_unused(backbone, config.image_size)
            backbone.set_grad_checkpointing(config.parallel.checkpointing)
        return model

    def _factors(self, samples: DenseSamples) -> Tensor | None:
        """How often images are shown, if rarer classes are shown more often; sets the weights of a federated loss."""
        config = self.config
        if not isinstance(config, DetectorConfig) or not isinstance(samples, ObjectSamples):
            return None
        federated = isinstance(config.head, DetectorHeadConfig) and config.head.federated is not None
        if config.repeat_threshold is None and not federated:
            return None
        dataset = samples.dataset
        labels = [torch.from_numpy(dataset.instances(row, masks=False).labels) for row in range(len(dataset.keys))]
        frequencies = class_frequencies(labels, len(dataset.categories))
        if federated:
            assert isinstance(self.model.head, Detector)
            self.model.head.model.roi_heads.class_weights.copy_(frequencies.sqrt())
        if config.repeat_threshold is None:
            return None
        return repeat_factors(labels, frequencies, config.repeat_threshold)

    def _measure(self, whole: DenseBatches) -> None:
        """Standardise the head's input over images as they are trained on; let depth begin with their typical one."""
        config, (standardize,) = self.config, [each for each in self.model.modules() if isinstance(each, Standardize)]
        batches = [whole(step) for step in range(-(-MEASURED // config.batch_size))]
        with torch.no_grad():
            maps = [self.model.backbone(batch.images.to(own_device())).float().cpu().numpy() for batch in batches]
        standardize.measure(np.concatenate(maps))
        if isinstance(self.model.head, DepthHead):
            self.model.head.begin_with(torch.stack([each["depth"] for batch in batches for each in batch.targets]))

    def train(self, listener: Listener | None) -> None:
        """Train to the end."""
        config, trained = self.config, [each for each in self.model.parameters() if each.requires_grad]
        logger.info(
            "loaded: %s, weights %s; %s; random: the head for %s, %s of %s parameters are trained",
            self.info.encoder,
            self.info.weights[:12],
            "frozen: all of it" if config.frozen else f"finetuned up to layer {self.info.layer}",
            self.info.task,
            f"{sum(each.numel() for each in trained):,}",
            f"{sum(each.numel() for each in self.model.parameters()):,}",
        )
        train(self.task, self.batches, config, self.out, self.fingerprint, listener)

    def write(self) -> Path:
        """Write the head, and that of the best validated step; return the path of the former."""
        path = self.out / WEIGHTS
        whole_model(self.task.model)
        if self.rank.number == 0:
            write_head(path, self.model, self.info, self.config.half)
            write_record(self.out, self.record | write_best(path, self.config, self.metric, self._write_step))
        return path

    def _write_step(self, step: int, path: Path) -> None:
        load_weights(self.out, step, trained_part(self.model, self.config))
        write_head(path, self.model, self.info, self.config.half)


def read_samples(config: DenseConfig, path: Path) -> tuple[DenseSamples, DenseSamples, tuple[str, ...]]:
    """Read a task's training and test images, and the names of its classes; raises what the readers do."""
    if isinstance(config, DepthTrainingConfig):
        depths = read_depth_splits(path, config.per_metre)
        return DepthSamples(depths[0]), DepthSamples(depths[1]), ()
    if isinstance(config, SegmenterConfig):
        masks = read_class_splits(path, config.any_class)
        return ClassSamples(masks[0]), ClassSamples(masks[1]), masks[0].classes
    assert isinstance(config, DetectorConfig)
    own, other = read_instance_splits(path)
    if config.class_agnostic:
        own, other = own.merge_classes(), other.merge_classes()
    both = config.masks and own.has_masks and other.has_masks
    names = tuple(str(category.get("name", category["id"])) for category in own.categories)
    return ObjectSamples(own, both), ObjectSamples(other, both), names


def open_tower(config: DenseConfig) -> tuple[Tower, int]:
    """Load the encoder's tower, and number its layer."""
    tower = load_tower(config.encoder)
    if not -tower.depth <= config.layer < tower.depth:
        raise ConfigError(f"layer {config.layer} does not exist; {config.encoder} has layers 0 to {tower.depth - 1}")
    patch = tower.patch_size if config.windows is None else config.windows.patch_size
    if config.image_size % patch:
        raise ConfigError(f"image_size is {config.image_size}; it must be a multiple of the patch, {patch}")
    if tower.fixed_size and (config.image_size, config.image_size) != tower.image_size:
        raise ConfigError(f"{config.encoder} takes images of {tower.image_size[0]} px only; set image_size to it")
    return tower, config.layer % tower.depth


def describe_head(
    config: DenseConfig, tower: Tower, layer: int, samples: DenseSamples, classes: tuple[str, ...]
) -> HeadInfo:
    """Describe the head that a run makes."""
    match config, samples:
        case DepthTrainingConfig(head=depth), _:
            task, head = "depth", dataclasses.asdict(depth)
        case SegmenterConfig(head=segmentation), _:
            task, head = "segmentation", dataclasses.asdict(segmentation)
        case DetectorConfig(head=DetrHeadConfig() as detr), _:
            task, head = "detr", dataclasses.asdict(detr)
        case DetectorConfig(head=DetectorHeadConfig() as detector), ObjectSamples(dataset=dataset):
            least_score, most = detector.limits(dataset.lvis)
            task, head = "detection", dataclasses.asdict(detector) | {"least_score": least_score, "most": most}
        case _:
            raise AssertionError(f"{type(config).__name__} has no head")
    return HeadInfo(
        task=task,
        encoder=portable_name(config.encoder),
        weights=tower.weight_hash,
        layer=layer,
        image_size=config.image_size,
        head=head,
        classes=classes,
        class_ids=_class_ids(samples),
        relative=isinstance(config, DepthTrainingConfig) and config.head.scale_invariance == 1,
        masks=isinstance(samples, ObjectSamples) and samples.masks,
        finetuned=not config.frozen,
        windows=config.windows,
        padded=isinstance(config, DetectorConfig),
    )


def _class_ids(samples: DenseSamples) -> tuple[int, ...]:
    """The classes' ids in the dataset, if they have some."""
    if not isinstance(samples, ObjectSamples):
        return ()
    return tuple(category["id"] for category in samples.dataset.categories)


def read_initial(path: Path) -> StateDict:
    """Read the tensors of a head's file, or of a published detector; CheckpointError for any other."""
    tensors, metadata = read_checkpoint(path)
    return tensors if METADATA in metadata else dict(published_detector(path, tensors)[0].state_dict())


def load_initial(model: DenseModel, path: Path) -> None:
    """Load what fits of another head, and log what does not; CheckpointError if nothing fits.

    The weights of a frozen encoder stay its own, for the file that is written will not have them.
    """
    tensors, own = read_initial(path), model.state_dict()
    if model.backbone.frozen:
        tensors = {name: each for name, each in tensors.items() if name.startswith("head.")}
    fitting = {name: each.float() for name, each in tensors.items() if name in own and each.shape == own[name].shape}
    if not fitting:
        raise CheckpointError(f"{path} has no weights that fit this head")
    model.load_state_dict({**own, **fitting})
    other = sorted(name for name in tensors if name not in fitting)
    rest = f"; random, because they do not fit: {', '.join(other)}" if other else ""
    logger.info("loaded: %d tensors of %s%s", len(fitting), escape_name(path), rest)


def freeze_unused(backbone: Backbone, image_size: int) -> None:
    """Freeze parameters that the layer does not depend on, such as those of later blocks."""
    device = next(backbone.parameters()).device
    backbone(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=device)).sum().backward()
    for parameter in backbone.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
