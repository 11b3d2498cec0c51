"""Train heads for depth, segmentation and detection."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.datasets.class_masks import read_class_splits
from perception_encoder.datasets.instances import InstanceSet, read_instance_splits
from perception_encoder.datasets.rgbd import read_depth_splits
from perception_encoder.dense_prediction.dense_model import (
    METADATA,
    TASKS,
    Backbone,
    DenseModel,
    HeadInfo,
    make_head,
    padded_inputs,
    padding_pixel,
    write_head,
)
from perception_encoder.dense_prediction.depth import DepthHead, DepthHeadConfig, scale_invariant_loss
from perception_encoder.dense_prediction.detection.mask_rcnn import PATCH, Detector, DetectorHeadConfig
from perception_encoder.dense_prediction.detection.roi_heads import class_frequencies, repeat_factors
from perception_encoder.dense_prediction.head_fitting import Standardize
from perception_encoder.dense_prediction.published_detectors import published_detector
from perception_encoder.dense_prediction.segmentation import SegmentationHead, class_share_loss
from perception_encoder.dense_training.batches import (
    DenseBatch,
    DenseBatches,
    DenseSamples,
    Targets,
)
from perception_encoder.dense_training.config import DenseConfig, DepthTrainingConfig, DetectorConfig, SegmenterConfig
from perception_encoder.dense_training.validation import make_validation
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoints.files import read_checkpoint
from perception_encoder.models.checkpoints.layouts import StateDict
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.initialization import drawn_from, torch_generator
from perception_encoder.models.libraries import load_tower
from perception_encoder.models.registry import portable_name
from perception_encoder.models.tower import Tower
from perception_encoder.preprocess.source import escape_name
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import ALONE
from perception_encoder.training.distributed import own_device, this_rank
from perception_encoder.training.loop import Section
from perception_encoder.training.metrics import Listener
from perception_encoder.training.run import RANDOM, StageRun, run_stage
from perception_encoder.training.task import Task, Validation

logger = logging.getLogger(__name__)

WEIGHTS = "head.safetensors"
PROCEDURE = 3  # increase when the same configuration and data give another result
MEASURED = 64  # number of images that the head's input is standardised on


def train_dense(
    config: DenseConfig, data: Sequence[Path], out: Path, track: Track = untracked, listener: Listener | None = None
) -> Path:
    """Train a head, or resume; return the written file, `OUT/head.safetensors`.

    `data`: one dataset with a training and a test set. A validated run also writes `OUT/best.safetensors`. Raises
    ConfigError, DataError, CheckpointError, and OutputError, also if another run is training in `out`.
    """
    return run_stage(lambda: DenseRun(config, data, out), out, track, listener)


class DenseRun(StageRun):
    """A run that trains a head on a dataset."""

    weights = WEIGHTS
    config: DenseConfig
    trainee: DenseTrainee

    def __init__(self, config: DenseConfig, data: Sequence[Path], out: Path) -> None:
        super().__init__(config, out)
        config = self.config
        if len(data) != 1:
            raise ConfigError(f"a head is trained on one dataset, not {len(data)}: give --data once")
        self.training, self.held_out, classes = read_samples(config, data[0])
        self.tower, layer = open_tower(config)
        self.info = describe_head(config, self.tower, layer, self.training, classes)
        self.identity = [f"procedure {PROCEDURE}", self.tower.weight_hash, *self.training.keys, *classes]
        if config.initial is not None:
            self.identity.append(state_hash(read_initial(Path(config.initial))))
        self.samples = {str(data[0]): len(self.training.keys)}
        encoder = f"{self.info.encoder}, weights {self.info.weights[:12]}"
        self.loaded = {"encoder": encoder, f"head for {self.info.task}": config.initial or RANDOM}

    def sections(self, track: Track) -> Iterator[Section]:
        config = self.config
        self.trainee = DenseTrainee(config, self.tower, self.info)
        model = self.trainee.model
        make = partial(
            DenseBatches,
            config,
            self.training,
            depth=self.info.layer + 1,
            padding=padding_pixel(self.tower),
            factors=self._factors(self.training),
        )
        if config.initial is None:
            self._measure(make(rank=ALONE))
        task = DenseTask(model, config)
        if config.validation is not None:
            size = config.validation.size
            task.validation = make_validation(model, self.held_out, size, config.image_size, self.out)
        sizes = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
        logger.info(
            "the encoder is %s; %s of %s parameters are trained",
            "entirely frozen" if config.frozen else f"finetuned up to layer {self.info.layer}",
            f"{sum(sizes):,}",
            f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        )
        yield Section(task, make(rank=this_rank()))

    def _factors(self, samples: DenseSamples) -> Tensor | None:
        """Return how often to show each image, if this differs; set the weights of a federated loss."""
        config, head = self.config, self.trainee.model.head
        dataset = samples.dataset
        if not isinstance(config, DetectorConfig) or not isinstance(dataset, InstanceSet):
            return None
        federated = isinstance(config.head, DetectorHeadConfig) and config.head.federated is not None
        if config.repeat_threshold is None and not federated:
            return None
        labels = [torch.from_numpy(dataset.instances(row, masks=False).labels) for row in range(len(dataset.keys))]
        frequencies = class_frequencies(labels, len(dataset.categories))
        if federated and isinstance(head, Detector):
            head.model.roi_heads.class_weights.copy_(frequencies.sqrt())
        threshold = config.repeat_threshold
        return None if threshold is None else repeat_factors(labels, frequencies, threshold)

    def _measure(self, whole: DenseBatches) -> None:
        """Standardise the head's input over training images; initialise depth at the typical depth."""
        config, model = self.config, self.trainee.model
        (standardize,) = [module for module in model.modules() if isinstance(module, Standardize)]
        batches = [whole(step) for step in range(-(-MEASURED // config.batch_size))]
        with torch.no_grad():
            maps = [model.backbone(batch.images.to(own_device())).float().cpu().numpy() for batch in batches]
        standardize.measure(np.concatenate(maps))
        if isinstance(model.head, DepthHead):
            model.head.begin_with(torch.stack([target["depth"] for batch in batches for target in batch.targets]))

    def rebuild(self, step: int) -> DenseTrainee:
        return self.trainee


class DenseTrainee:
    """A head and its encoder at the start of a run."""

    def __init__(self, config: DenseConfig, tower: Tower, info: HeadInfo) -> None:
        self.config, self.info = config, info
        padded = padded_inputs(info, tower)
        backbone = Backbone(tower, info.layer, config.frozen, config.windows, config.image_size, padded)
        with drawn_from(torch_generator(config.seed, 4)):
            self.model = DenseModel(backbone, make_head(info, backbone.width)).to(own_device())
        if config.initial is not None:
            load_initial(self.model, Path(config.initial))
        if not config.frozen:
            freeze_unused(backbone, config.image_size)
            backbone.set_grad_checkpointing(config.parallel.checkpointing)

    @property
    def module(self) -> nn.Module:
        return trained_part(self.model, self.config)

    def write(self, path: Path) -> None:
        write_head(path, self.model, self.info, self.config.half)


def read_samples(config: DenseConfig, path: Path) -> tuple[DenseSamples, DenseSamples, tuple[str, ...]]:
    """Return a task's training and test images, and the names of its classes; raises what the readers do."""
    if isinstance(config, DepthTrainingConfig):
        depths = read_depth_splits(path, config.per_metre)
        return DenseSamples(depths[0]), DenseSamples(depths[1]), ()
    if isinstance(config, SegmenterConfig):
        masks = read_class_splits(path)
        return DenseSamples(masks[0]), DenseSamples(masks[1]), masks[0].classes
    assert isinstance(config, DetectorConfig)
    training, test = read_instance_splits(path)
    if config.class_agnostic:
        training, test = training.merge_classes(), test.merge_classes()
    both = config.masks and training.has_masks and test.has_masks
    names = tuple(str(category.get("name", category["id"])) for category in training.categories)
    return DenseSamples(training, both), DenseSamples(test, both), names


def open_tower(config: DenseConfig) -> tuple[Tower, int]:
    """Load the encoder's tower, and return it with the number of its layer."""
    tower = load_tower(config.encoder)
    if not -tower.depth <= config.layer < tower.depth:
        raise ConfigError(f"layer {config.layer} does not exist; {config.encoder} has layers 0 to {tower.depth - 1}")
    patch = tower.patch_size if config.windows is None else config.windows.patch_size
    if config.image_size % patch:
        raise ConfigError(f"image_size is {config.image_size}; it must be a multiple of the patch, {patch}")
    if tower.fixed_size and (config.image_size, config.image_size) != tower.image_size:
        raise ConfigError(f"{config.encoder} only takes images of {tower.image_size[0]} px; set image_size to that")
    return tower, config.layer % tower.depth


def describe_head(
    config: DenseConfig, tower: Tower, layer: int, samples: DenseSamples, classes: tuple[str, ...]
) -> HeadInfo:
    """Return the description of the head that a run trains."""
    objects = samples.dataset if isinstance(samples.dataset, InstanceSet) else None
    head = dataclasses.asdict(config.head)
    if isinstance(config.head, DetectorHeadConfig) and objects is not None:
        least_score, most = config.head.limits(objects.lvis)
        head |= {"least_score": least_score, "most": most}
    return HeadInfo(
        task=next(name for name, kind in TASKS.items() if isinstance(config.head, kind)),
        encoder=portable_name(config.encoder),
        weights=tower.weight_hash,
        layer=layer,
        image_size=config.image_size,
        head=head,
        classes=classes,
        class_ids=() if objects is None else tuple(category["id"] for category in objects.categories),
        relative=isinstance(config.head, DepthHeadConfig) and config.head.scale_invariance == 1,
        masks=objects is not None and samples.masks,
        finetuned=not config.frozen,
        windows=config.windows,
        padded=objects is not None,
    )


def read_initial(path: Path) -> StateDict:
    """Read the tensors of a head's file, or of a published detector; CheckpointError for any other."""
    tensors, metadata = read_checkpoint(path)
    return tensors if METADATA in metadata else dict(published_detector(path, tensors)[0].state_dict())


def load_initial(model: DenseModel, path: Path) -> None:
    """Load the fitting weights of another head, and log the others; CheckpointError if none fit.

    A frozen encoder keeps its weights, as the written file will not have them.
    """
    tensors, current = read_initial(path), model.state_dict()
    if model.backbone.frozen:
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("head.")}
    fitting = {
        name: tensor.float()
        for name, tensor in tensors.items()
        if name in current and tensor.shape == current[name].shape
    }
    if not fitting:
        raise CheckpointError(f"{path} has no weights that fit this head")
    model.load_state_dict({**current, **fitting})
    other = sorted(name for name in tensors if name not in fitting)
    rest = f"; not loaded, because they do not fit: {', '.join(other)}" if other else ""
    logger.info("loaded: %d tensors of %s%s", len(fitting), escape_name(path), rest)


def freeze_unused(backbone: Backbone, image_size: int) -> None:
    """Freeze parameters that the layer does not depend on, such as those of later blocks."""
    device = next(backbone.parameters()).device
    backbone(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=device)).sum().backward()
    for parameter in backbone.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def trained_part(model: DenseModel, config: DenseConfig) -> nn.Module:
    """Return the module to train and save in checkpoints: only the head if the encoder is frozen."""
    return model.head if config.frozen else model


class DenseTask(Task):
    """Minimise the losses of a head; a detector's are torchvision's."""

    validation: Validation | None = None

    def __init__(self, model: DenseModel, config: DenseConfig) -> None:
        self.model, self.config = trained_part(model, config), config
        self.backbone, self.head = model.backbone, model.head

    def losses(self, batch: DenseBatch) -> dict[str, Tensor]:
        """Return the head's losses by name; with several ranks, this rank's shares."""
        return {name: batch.share * loss for name, loss in self._losses(batch).items()}

    def _run(self, batch: DenseBatch, *arguments: Any) -> Any:
        """Return the head's output; `model` is the head alone, or with the encoder."""
        if self.config.frozen:
            return self.model(self.backbone(batch.images), *arguments)
        return self.model(batch.images, *arguments, branches=batch.branches)

    def _losses(self, batch: DenseBatch) -> dict[str, Tensor]:
        match self.head:
            case DepthHead():
                predicted = self._run(batch)  # (B, h, w)
                depths = torch.stack([targets["depth"] for targets in batch.targets])[:, None]  # (B, 1, H, W)
                target = F.interpolate(depths, predicted.shape[-2:], mode="nearest-exact")[:, 0]
                return {"depth": scale_invariant_loss(predicted, target, self.head.config)}
            case SegmentationHead():
                labels = torch.stack([targets["labels"] for targets in batch.targets]) - 1
                return {"classes": class_share_loss(self._run(batch), labels)}
        with drawn_from(torch_generator(self.config.seed, 6, batch.draw)):
            targets = [self._scaled(target) for target in batch.targets]
            inside = [tuple(target.pop("inside").tolist()) for target in targets]
            _, losses = self._run(batch, targets, inside)
        return {name.removeprefix("loss_"): loss.float() for name, loss in losses.items()}

    def _scaled(self, target: Targets) -> Targets:
        """Return targets in a detector's pixels: 16 by 16 per patch, whatever its real size."""
        scale = PATCH / self.backbone.patch_size
        moved = dict(target)
        if scale == 1:
            return moved
        moved |= {"boxes": target["boxes"] * scale, "inside": target["inside"] * scale}
        if "masks" in target and len(target["masks"]):
            size = [round(side * scale) for side in target["masks"].shape[-2:]]
            moved["masks"] = F.interpolate(target["masks"][:, None].float(), size, mode="nearest-exact")[:, 0].byte()
        return moved
