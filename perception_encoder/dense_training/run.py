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
from torch import Tensor, nn

from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo, write_head
from perception_encoder.dense_prediction.published_detectors import read_head_state
from perception_encoder.dense_training.batches import DenseBatch, DenseBatches
from perception_encoder.dense_training.config import DenseConfig
from perception_encoder.dense_training.kinds import KINDS, DenseKind, parameter_count
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.libraries import load_tower
from perception_encoder.models.registry import portable_name
from perception_encoder.models.tower import Tower
from perception_encoder.preprocess.source import escape_name
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import ALONE
from perception_encoder.training.distributed import own_device, this_rank
from perception_encoder.training.loop import Section, Task, Validation
from perception_encoder.training.metrics import Listener
from perception_encoder.training.run import RANDOM, StageRun, run_stage

logger = logging.getLogger(__name__)

WEIGHTS = "head.safetensors"
PROCEDURE = 3  # increase when the same configuration and data give another result
MEASURED = 64  # number of images that the head's input is standardised on


def train_dense(
    config: DenseConfig, data: Sequence[Path], out: Path, track: Track = untracked, listener: Listener | None = None
) -> Path:
    """Train a head, or resume; return the written file, `OUT/head.safetensors`.

    `data`: one dataset with a training and a test set. Raises ConfigError, DataError and what `run_stage` does.
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
        self.kind = KINDS[type(config.head)](config, data[0])
        self.tower, layer = open_tower(config)
        self.info = describe_head(config, self.tower, layer, self.kind)
        keys = self.kind.training.keys
        self.identity = [f"procedure {PROCEDURE}", self.tower.weight_hash, *keys, *self.info.classes]
        if config.initial is not None:
            self.identity.append(state_hash(read_head_state(Path(config.initial))))
        self.samples = {str(data[0]): len(keys)}
        encoder = f"{self.info.encoder}, weights {self.info.weights[:12]}"
        self.loaded = {"encoder": encoder, f"head for {self.info.task}": config.initial or RANDOM}

    def sections(self, track: Track) -> Iterator[Section]:
        config = self.config
        self.trainee = DenseTrainee(config, self.tower, self.info)
        model = self.trainee.model
        make = partial(
            DenseBatches,
            config,
            self.kind.training,
            depth=self.info.layer + 1,
            padding=self.tower.padding,
            factors=self.kind.factors(model.head),
        )
        if config.initial is None:
            self._measure(make(rank=ALONE))
        task = DenseTask(model, config, self.kind)
        if config.validation is not None:
            size = config.validation.size
            task.validation = self.kind.validation(model, self.kind.held_out, size, config.image_size, self.out)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        kept = "entirely frozen" if config.frozen else f"finetuned up to layer {self.info.layer}"
        text = "the encoder is %s; %s of %s parameters are trained"
        logger.info(text, kept, f"{trained:,}", f"{parameter_count(model):,}")
        yield Section(task, make(rank=this_rank()))

    def _measure(self, whole: DenseBatches) -> None:
        """Standardise the head's input over training images, and prepare it for their targets."""
        config, model = self.config, self.trainee.model
        batches = [whole(step) for step in range(-(-MEASURED // config.batch_size))]
        with torch.no_grad():
            maps = [model.backbone(batch.images.to(own_device())).float().cpu().numpy() for batch in batches]
        model.standardize(np.concatenate(maps))
        self.kind.begin(model.head, [target for batch in batches for target in batch.targets])


class DenseTrainee:
    """A head and its encoder at the start of a run."""

    def __init__(self, config: DenseConfig, tower: Tower, info: HeadInfo) -> None:
        self.config, self.info = config, info
        self.model = DenseModel.of(info, tower, config.frozen, torch_generator(config.seed, 4)).to(own_device())
        if config.initial is not None:
            load_initial(self.model, Path(config.initial))
        if not config.frozen:
            self.model.backbone.freeze_unused()
            self.model.backbone.set_grad_checkpointing(config.parallel.checkpointing)

    @property
    def module(self) -> nn.Module:
        return trained_part(self.model, self.config)

    def write(self, path: Path) -> None:
        write_head(path, self.model, self.info, self.config.half)


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


def describe_head(config: DenseConfig, tower: Tower, layer: int, kind: DenseKind) -> HeadInfo:
    """Return the description of the head that a run trains."""
    fields: dict[str, Any] = {
        "task": kind.task,
        "encoder": portable_name(config.encoder),
        "weights": tower.weight_hash,
        "layer": layer,
        "image_size": config.image_size,
        "head": dataclasses.asdict(config.head),
        "finetuned": not config.frozen,
        "windows": config.windows,
    }
    return HeadInfo(**{**fields, **kind.description})


def load_initial(model: DenseModel, path: Path) -> None:
    """Load the fitting weights of another head, and log the others; CheckpointError if none fit.

    A frozen encoder keeps its weights, as the written file will not have them.
    """
    tensors, current = read_head_state(path), model.state_dict()
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


def trained_part(model: DenseModel, config: DenseConfig) -> nn.Module:
    """Return the module to train and save in checkpoints: only the head if the encoder is frozen."""
    return model.head if config.frozen else model


class DenseTask(Task):
    """Minimise the losses of a head."""

    validation: Validation | None = None

    def __init__(self, model: DenseModel, config: DenseConfig, kind: DenseKind) -> None:
        self.model, self.kind = trained_part(model, config), kind
        self.backbone, self.frozen = model.backbone, config.frozen

    def losses(self, batch: DenseBatch) -> dict[str, Tensor]:
        """Return the head's losses by name; with several ranks, this rank's shares."""
        losses = self.kind.losses(self._run, batch, self.backbone.patch_size)
        return {name: batch.share * loss for name, loss in losses.items()}

    def _run(self, batch: DenseBatch, *arguments: Any) -> Any:
        """Return the head's output; `model` is the head alone, or with the encoder."""
        if self.frozen:
            return self.model(self.backbone(batch.images), *arguments)
        return self.model(batch.images, *arguments, branches=batch.branches)
