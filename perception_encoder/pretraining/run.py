"""Run the contrastive stage: pretraining, finetuning and distillation (sections 2.1 and 2.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception_encoder.data.pairs import PairBatches
from perception_encoder.data.streams import Shards
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoints.weights import load_model, weight_hash, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize, torch_generator
from perception_encoder.models.vision_transformer import resample_table
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.config import PROCEDURE, PretrainingConfig, resolve_config, trained_towers
from perception_encoder.pretraining.recipes import plan_pretraining
from perception_encoder.pretraining.sources import ReadPairs, open_sources, read_pairs
from perception_encoder.pretraining.task import ContrastiveTask, DistillationTask, PairValidation, Teacher, load_teacher
from perception_encoder.pretraining.towers import (
    MAX_CACHED,
    CachedTexts,
    CaptionVocabulary,
    TrainingTowers,
    add_adapters,
    merge_adapters,
)
from perception_encoder.progress import Track, untracked
from perception_encoder.training.distributed import Exchange, own_cores, own_device, this_rank
from perception_encoder.training.loop import Section, Task
from perception_encoder.training.metrics import Listener
from perception_encoder.training.run import RANDOM, StageRun, run_stage


def pretrain(
    config: PretrainingConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
    open_teacher: OpenTeacher = load_teacher,
    read: ReadPairs = read_pairs,
) -> Path:
    """Train two towers on pairs, or resume; return the written weights, `OUT/model.safetensors`.

    Raises ConfigError, DataError and what `run_stage` does.

    Args:
        data: Directories that hold `train.tar` or `train/*.tar`, class directories or tables, read into memory, or
            shards, read as they are needed.
        open_teacher: Opens the one that `config` names.
        read: Reads directories and tables; the run's fingerprint has the names of the samples, not how they are read.
    """
    return run_stage(lambda: PairRun(config, data, out, track, open_teacher, read), out, track, listener)


OpenTeacher = Callable[[str, int], Teacher]
"""Opens a teacher by its name, to remember so many embeddings; see `load_teacher`."""


class PairRun(StageRun):
    """A run on image-text pairs, with or without a teacher.

    With a teacher images are made once, at the larger of the two models' sizes, and each model scales them down to its
    own: both see the same crop, and one more antialiased step costs less than decoding twice.
    """

    config: PretrainingConfig
    trainee: PairTrainee
    loaded: dict[str, str]

    def __init__(
        self,
        config: PretrainingConfig,
        data: Sequence[Path | Shards],
        out: Path,
        track: Track,
        open_teacher: OpenTeacher,
        read: ReadPairs,
    ) -> None:
        super().__init__(config, out, PairValidation.higher_is_better)
        teacher = open_teacher(config.teacher, config.remember) if config.teacher else None
        least = teacher.image_size if teacher else 0
        config = resolve_config(self.config, least)
        self.teacher, self.exchange, model = teacher, Exchange(), build_model(config)
        self.sources = open_sources(config, data, model, self.exchange, track, read)
        self.config = config if self.sources.validation else dataclasses.replace(config, validation=None)
        self.identity = [f"procedure {PROCEDURE}", *self.sources.names, *([teacher.identity] if teacher else [])]
        self.samples = self.sources.samples
        self.loaded = {"model": config.initial or RANDOM, **({"teacher": config.teacher} if config.teacher else {})}
        self.trainee = self._trainee(model)
        vocabulary = self.sources.vocabulary
        self.batches = PairBatches(
            self.sources.sets,
            self.sources.weights,
            config.batch_size,
            [dataclasses.replace(stage, image_size=max(stage.image_size, least)) for stage in config.stages],
            config.augmentation,
            vocabulary or dataclasses.replace(tokenizer(model), warns=False),
            config.seed,
            rank=this_rank(),
            exchange=self.exchange,
            masks=config.masking.draw if config.masking else None,
            mixing=config.mixing,
            patch=model.visual.config.patch_size,
            workers=1 if vocabulary else own_cores(),
            bad_share=config.streams.bad_share,
        )

    def _trainee(self, model: CLIP) -> PairTrainee:
        metadata = {"seed": str(self.config.seed), "run": self.fingerprint}
        return PairTrainee(self.config, model, self.sources.vocabulary, metadata)

    def sections(self, track: Track) -> Iterator[Section]:
        """Set the model to each resolution in turn (step 2 of section 2.1).

        At each switch the run goes through its checkpoint: the position table, and the optimizer's moments of it, are
        resampled as they are read.
        """
        config, clip, towers = self.config, self.trainee.model, self.trainee.module
        self.trainee.cache_texts(track)
        validation = None
        if config.validation is not None:
            validation = PairValidation(config, towers, self.sources, self.trainee.table)
        work = list[tuple[int, float]]()
        if len(config.stages) > 1:
            work = [(phase.steps, phase.flops(config.parallel)) for phase in plan_pretraining(config)[0]]
        done = self.done
        for stage, end in zip(config.stages, self.batches.ends, strict=True):
            if end > done or end == config.steps:
                clip.visual.set_image_size(stage.image_size)
                yield Section(self._task(stage.image_size, validation), self.batches, end, work, fit_positions)

    def _task(self, image_size: int, validation: PairValidation | None) -> Task:
        config, towers = self.config, self.trainee.module
        if self.teacher is None:
            return ContrastiveTask(towers, config.masking.weight if config.masking else 0.0, validation)
        scale, weight = config.teacher_logit_scale, config.contrastive_weight
        return DistillationTask(towers, self.teacher, image_size, scale, weight, validation)

    def rebuild(self, step: int) -> PairTrainee:
        trainee = self._trainee(build_model(self.config))
        trainee.model.visual.set_image_size(self.config.stages[self.batches.stage(step - 1)].image_size)
        return trainee

    def describe(self, path: Path) -> dict[str, Any]:
        return {"weight_hash": weight_hash(load_model(path))}


def fit_positions(name: str, saved: Tensor, current: Tensor) -> Tensor:
    """Resample a saved position table, or the optimizer's moments of one, to the current resolution."""
    if "positional_embedding" not in name:
        raise CheckpointError(f"the checkpoint does not fit this run: {name} is {tuple(saved.shape)}")
    return resample_table(saved, len(current))


class PairTrainee:
    """A model with additions for training: reduced token table, locked tower, adapters, cached captions."""

    def __init__(
        self,
        config: PretrainingConfig,
        model: CLIP,
        vocabulary: CaptionVocabulary | None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.config, self.model, self.vocabulary, self.metadata = config, model, vocabulary, metadata
        self.table = model.text.token_embedding.weight.detach() if config.initial else None
        """The full token table of the initial weights."""
        if vocabulary:
            vocabulary.narrow(model)
        model.set_grad_checkpointing(config.parallel.checkpointing)
        if config.locked is not None:
            model.get_submodule(config.locked).requires_grad_(False)
        lora = config.lora
        self.adapters = None if lora is None else add_adapters(model, lora, config.locked, config.seed)
        self.module = TrainingTowers(model, config.masking is not None, config.parallel.chunk)

    def cache_texts(self, track: Track) -> None:
        """Encode all captions of a locked text tower, if they are known and few enough."""
        if self.vocabulary and self.config.locked == "text":
            captions = self.vocabulary.captions
            if len(captions) <= min(MAX_CACHED, self.config.samples):
                self.module.cached = CachedTexts(self.model.text.to(own_device()), captions, track)

    def write(self, path: Path) -> None:
        """Write the model's weights without training's additions; it cannot be trained afterwards."""
        if self.adapters is not None:
            merge_adapters(self.adapters)
        if self.vocabulary:
            self.vocabulary.widen(self.model, self.table)
        if self.config.initial_share:
            average_with(self.model, build_model(self.config), self.config.initial_share)
        half = self.config.half
        write_checkpoint(self.model, path, half=half, int8_tokens=half, metadata=self.metadata)


def build_model(config: PretrainingConfig) -> CLIP:
    """Build the initial model of a resolved run; ConfigError if `initial` is another model or has no text tower."""
    name, vision, text = trained_towers(config)
    if config.initial is not None:
        loaded = load_model(config.initial)
        if not isinstance(loaded, CLIP) or loaded.name != name:
            raise ConfigError(f"initial is {config.initial}, which is {loaded.name}; the run trains {name}")
        return loaded
    # a position table drawn for the last resolution would shrink as it is resampled to the first
    vision = dataclasses.replace(vision, image_size=config.stages[0].image_size)
    with torch.device("meta"):
        model = CLIP(vision, text, name)
    model = model.to_empty(device="cpu")
    initialize(model, torch_generator(config.seed))
    return model


@torch.no_grad()
def average_with(model: CLIP, initial: CLIP, share: float) -> None:
    """Replace a model's weights by the mean of its own and `initial`'s (weighted by `share`), in place.

    WiSE-FT (arXiv 2109.01903). Position tables are resampled to the model's size; the logit scale is the model's own.
    """
    initial.visual.set_image_size(model.visual.config.image_size)
    others = dict(initial.named_parameters())
    for name, weight in model.named_parameters():
        if name != "logit_scale":
            weight.lerp_(others[name].to(weight), share)
