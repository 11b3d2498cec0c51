"""Run a pretraining: wire its configuration to the data, the training loop and a directory (section 2.1)."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception_encoder.data.pairs import PairBatches
from perception_encoder.data.streams import Shards
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.files import replacing, write_json, writing
from perception_encoder.models.checkpoints.weights import load_model, weight_hash, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize
from perception_encoder.models.layers.positions import resample_table
from perception_encoder.models.registry import find_model
from perception_encoder.planning.teacher import TeacherCost
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.averaging import average_with
from perception_encoder.pretraining.cached_texts import MOST, CachedTexts
from perception_encoder.pretraining.config import PROCEDURE, PretrainingConfig, tower_configs
from perception_encoder.pretraining.cost import RunCost
from perception_encoder.pretraining.lora import add_adapters, merge_adapters
from perception_encoder.pretraining.sources import Sources, open_sources
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers
from perception_encoder.pretraining.validation import PairValidation
from perception_encoder.pretraining.vocabulary import CaptionVocabulary
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import Rank
from perception_encoder.train.checkpoint import check_run, find_checkpoints, load_weights, run_folder
from perception_encoder.train.distributed import Exchange, own_cores, own_device, process_group, whole_model
from perception_encoder.train.loop import train
from perception_encoder.train.metrics import Listener
from perception_encoder.train.seed import torch_generator
from perception_encoder.train.task import Task

WEIGHTS, BEST = "model.safetensors", "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a run minimises instead of the contrastive loss (distillation)."""

    make_task: Callable[[Towers], Task]
    """Makes the task of a resolution, which the towers have then."""
    image_size: int
    """Images of a batch are at least this large; the task scales them down for the towers."""
    identity: str
    """What else the result depends on: a teacher's weights."""
    teacher: TeacherCost | None
    """What a teacher costs; None if no formula gives it, and then the run has no MFU."""


def pretrain(
    config: PretrainingConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
    objective: Objective | None = None,
) -> Path:
    """Run, or resume, a pretraining; return the weights that it wrote, `OUT/model.safetensors`.

    `data` are directories that hold `train.tar` or `train/*.tar`, class directories or tables, read into memory, or
    shards, read as they are needed. A validated run also writes `OUT/best.safetensors`, its weights at the best score.
    Raises ConfigError, DataError, CheckpointError, and OutputError, also if another run is training in `out`.
    """
    with process_group() as rank, run_folder(out):
        return _pretrain(config, data, out, track, listener, objective, rank)


def _pretrain(
    config: PretrainingConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track,
    listener: Listener | None,
    objective: Objective | None,
    rank: Rank,
) -> Path:
    model, exchange = build_model(config), Exchange()
    sources = open_sources(config, data, model, rank, exchange, track)
    if not sources.validation:
        config = dataclasses.replace(config, validation=None)
    identity = [objective.identity] if objective else []
    fingerprint = config.fingerprint([f"procedure {PROCEDURE}", *sources.names, *identity])
    check_run(out, fingerprint)
    record = _describe(config, fingerprint, sources.samples)
    if rank.number == 0:
        write_json(out / "config.json", record)
    batches = _make_batches(config, sources, model, rank, exchange, objective.image_size if objective else 0)
    trainee = Trainee(config, model, sources.vocabulary)
    trainee.cache_texts(track)
    train_stages(trainee, sources, batches, out, fingerprint, listener, objective)
    if rank.number == 0:
        metadata = {"seed": str(config.seed), "run": fingerprint}
        trainee.write(out / WEIGHTS, metadata)
        record["weight_hash"] = weight_hash(load_model(out / WEIGHTS))  # of the weights as written
        write_json(out / "config.json", record | _write_best(config, sources, out, batches, metadata))
    return out / WEIGHTS


def _make_batches(
    config: PretrainingConfig, sources: Sources, model: CLIP, rank: Rank, exchange: Exchange, least_size: int
) -> PairBatches:
    return PairBatches(
        sources.sets,
        sources.weights,
        config.batch_size,
        [dataclasses.replace(stage, image_size=max(stage.image_size, least_size)) for stage in config.stages],
        config.augmentation,
        sources.vocabulary or dataclasses.replace(tokenizer(model), warns=False),
        config.seed,
        rank=rank,
        exchange=exchange,
        masks=config.masking.draw if config.masking else None,
        mixing=config.mixing,
        patch=model.visual.config.patch_size,
        workers=1 if sources.vocabulary else own_cores(),
        bad_share=config.streams.bad_share,
        resampled=config.streams.resampled,
    )


def _write_best(
    config: PretrainingConfig, sources: Sources, out: Path, batches: PairBatches, metadata: dict[str, str]
) -> dict[str, Any]:
    """Write the weights of the best validated step; return what the record says of it."""
    if config.validation is None:
        return {}
    _, newest = find_checkpoints(out)[0]
    if newest.best_step is None:  # no score was a number
        return {}
    if newest.best_step == config.steps:
        with writing(out / BEST), replacing(out / BEST) as temporary:
            shutil.copyfile(out / WEIGHTS, temporary)
    else:
        trainee = Trainee(config, build_model(config), sources.vocabulary)
        trainee.model.visual.set_image_size(config.stages[batches.stage(newest.best_step - 1)].image_size)
        load_weights(out, newest.best_step, trainee.towers)
        trainee.write(out / BEST, metadata)
    return {"best": {"step": newest.best_step, config.validation.metric: newest.best}}


class Trainee:
    """A model with what training adds to it: narrowed token table, locked tower, adapters, cached captions."""

    def __init__(self, config: PretrainingConfig, model: CLIP, vocabulary: CaptionVocabulary | None) -> None:
        self.config, self.model, self.vocabulary = config, model, vocabulary
        self.table = model.text.token_embedding.weight.detach() if config.initial else None
        """The whole token table of the weights to begin with."""
        if vocabulary:
            vocabulary.narrow(model)
        model.set_grad_checkpointing(config.parallel.checkpointing)
        if config.locked is not None:
            model.get_submodule(config.locked).requires_grad_(False)
        lora = config.lora
        self.adapters = None if lora is None else add_adapters(model, lora, config.locked, config.seed)
        self.towers = Towers(model, config.masking is not None, config.parallel.chunk)

    def cache_texts(self, track: Track) -> None:
        """Encode all captions of a locked text tower, if they are known and few enough."""
        if self.vocabulary and self.config.locked == "text":
            captions = self.vocabulary.captions
            if len(captions) <= min(MOST, self.config.samples):
                self.towers.cached = CachedTexts(self.model.text.to(own_device()), captions, track)

    def write(self, path: Path, metadata: dict[str, str]) -> None:
        """Write the model's weights, without what training added; it cannot be trained further then."""
        if self.adapters is not None:
            merge_adapters(self.adapters)
        if self.vocabulary:
            self.vocabulary.widen(self.model, self.table)
        if self.config.initial_share:
            average_with(self.model, build_model(self.config), self.config.initial_share)
        half = self.config.half
        write_checkpoint(self.model, path, half=half, int8_tokens=half, metadata=metadata)


def train_stages(
    trainee: Trainee,
    sources: Sources,
    batches: PairBatches,
    out: Path,
    fingerprint: str,
    listener: Listener | None,
    objective: Objective | None,
) -> None:
    """Train a model through all resolutions, in place (step 2 of section 2.1).

    At each switch the run goes through its checkpoint: the position table, and the optimizer's moments of it, are
    resampled as they are read. The model comes out at the last resolution, on the CPU.
    """
    config, towers, model = trainee.config, trainee.towers, trainee.model
    weight, validation = config.masking.weight if config.masking else 0.0, None
    if config.validation is not None:
        validation = PairValidation(config, config.validation, towers, sources, trainee.table)
    done = max((state.step for _, state in find_checkpoints(out)), default=0)
    trained = 0
    for stage, end in zip(config.stages, batches.ends, strict=True):
        if end > done or end == config.steps:
            model.visual.set_image_size(stage.image_size)
            # what runs in parallel is made anew for each resolution
            cost = _run_cost(config, towers, objective)
            task = objective.make_task(towers) if objective else ContrastiveTask(towers, weight)
            train(task, batches, config.loop, out, fingerprint, listener, end, fit_positions, cost, trained, validation)
            trained = end
    whole_model(model)


def _run_cost(config: PretrainingConfig, towers: Towers, objective: Objective | None) -> RunCost | None:
    """Return the cost of the model at its resolution."""
    teacher = objective.teacher if objective else None
    if objective and teacher is None:
        return None
    return RunCost(config, towers.clip.visual.config, towers.clip.text.config, towers.cached is not None, teacher)


def build_model(config: PretrainingConfig) -> CLIP:
    """Build the model that a run begins with; ConfigError without a text tower, or if `initial` is another model."""
    entry = find_model(config.model)
    vision, text = tower_configs(config)
    if config.initial is not None:
        loaded = load_model(config.initial)
        if not isinstance(loaded, CLIP) or loaded.name != entry.name:
            raise ConfigError(f"initial is {config.initial}, which is {loaded.name}; the run trains {entry.name}")
        return loaded
    if config.stages:  # a table drawn for the last resolution would shrink as it is resampled to the first
        vision = dataclasses.replace(vision, image_size=config.stages[0].image_size)
    with torch.device("meta"):
        model = CLIP(vision, text, entry.name)
    model = model.to_empty(device="cpu")
    initialize(model, torch_generator(config.seed))
    return model


def fit_positions(name: str, saved: Tensor, wanted: Tensor) -> Tensor:
    """Resample a saved position table, or the optimizer's moments of one (`resume_run`'s `fit`)."""
    if "positional_embedding" not in name:
        raise CheckpointError(f"the checkpoint does not fit this run: {name} is {tuple(saved.shape)}")
    return resample_table(saved, len(wanted))


def _describe(config: PretrainingConfig, fingerprint: str, samples: Mapping[str, int]) -> dict[str, Any]:
    """Return the record of a run: resolved configuration, samples a source, versions."""
    return {
        "config": dataclasses.asdict(config),
        "fingerprint": fingerprint,
        "samples": dict(samples),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
