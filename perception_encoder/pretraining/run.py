"""Run a pretraining: wire its configuration to the data, the training loop and a directory (section 2.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from perception_encoder.data.captions import SourceRules
from perception_encoder.data.pairs import PairBatches
from perception_encoder.data.streams import Shards
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoints.weights import load_model, weight_hash, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import find_model
from perception_encoder.models.vision_transformer import resample_table
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.cached_texts import MOST, CachedTexts
from perception_encoder.pretraining.config import PROCEDURE, PairConfig, PretrainingConfig, tower_configs
from perception_encoder.pretraining.lora import add_adapters, merge_adapters
from perception_encoder.pretraining.plan import pair_cost
from perception_encoder.pretraining.sources import Sources, open_sources
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers
from perception_encoder.pretraining.validation import PairValidation
from perception_encoder.pretraining.vocabulary import CaptionVocabulary
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import Rank
from perception_encoder.training.checkpoint import check_run, find_checkpoints, load_weights, run_directory, write_best
from perception_encoder.training.cost import RunCost, StepModel
from perception_encoder.training.distributed import Exchange, own_cores, own_device, process_group, whole_model
from perception_encoder.training.loop import train
from perception_encoder.training.metrics import Listener, describe_run, write_record
from perception_encoder.training.seed import torch_generator
from perception_encoder.training.task import Task
from perception_encoder.training.validation import choose_metric

WEIGHTS = "model.safetensors"


def pretrain(
    config: PairConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
    rules: SourceRules | None = None,
) -> Path:
    """Run, or resume, a pretraining or finetuning; return the weights that it wrote, `OUT/model.safetensors`.

    `data` are directories that hold `train.tar` or `train/*.tar`, class directories or tables, read into memory, or
    shards, read as they are needed. `rules`: on captions of sources by their names, and on what is never trained on. A
    run's fingerprint has the names of the samples, not the rules. A validated run also writes `OUT/best.safetensors`,
    its weights at the best score.
    Raises ConfigError, DataError, CheckpointError, and OutputError, also if another run is training in `out`.
    """
    with process_group() as rank, run_directory(out):
        run = PairRun(config.pretraining(), data, out, rank, track, rules=rules)
        mask_weight = run.config.masking.weight if run.config.masking else 0.0
        for end in run.resolutions():
            run.train(ContrastiveTask(run.towers, mask_weight, run.validation), end, run.cost(), listener)
        return run.write()


class PairRun:
    """A run on image-text pairs: data, model and directory; what it minimises is the task that a stage trains it by.

    `least_size`: images of a batch are at least this large, in pixels. `identity`: what else the result depends on,
    such as a teacher's weights. Raises what `pretrain` does, before any step.
    """

    def __init__(
        self,
        config: PretrainingConfig,
        data: Sequence[Path | Shards],
        out: Path,
        rank: Rank,
        track: Track,
        least_size: int = 0,
        identity: Sequence[str] = (),
        rules: SourceRules | None = None,
    ) -> None:
        self.metric = choose_metric(config.validation, PairValidation.higher_is_better) if config.validation else ""
        model, exchange = build_model(config), Exchange()
        self.sources = open_sources(config, data, model, rank, exchange, track, rules or SourceRules())
        self.config = config if self.sources.validation else dataclasses.replace(config, validation=None)
        self.out, self.rank = out, rank
        self.fingerprint = self.config.fingerprint([f"procedure {PROCEDURE}", *self.sources.names, *identity])
        check_run(out, self.fingerprint)
        self.record = describe_run(self.config, self.fingerprint, self.sources.samples)
        if rank.number == 0:
            write_record(out, self.record)
        self.batches = _make_batches(self.config, self.sources, model, rank, exchange, least_size)
        self.trainee = Trainee(self.config, model, self.sources.vocabulary)
        self.trainee.cache_texts(track)
        self.towers = self.trainee.towers
        self.validation: PairValidation | None = None
        if self.config.validation is not None:
            self.validation = PairValidation(self.config, self.towers, self.sources, self.trainee.table)
        self._trained = 0

    def resolutions(self) -> Iterator[int]:
        """Set the model to each resolution that is not finished, and yield the step where it ends (step 2 of 2.1).

        At each switch the run goes through its checkpoint: the position table, and the optimizer's moments of it, are
        resampled as they are read. The model comes out at the last resolution, on the CPU.
        """
        done = max((state.step for _, state in find_checkpoints(self.out)), default=0)
        for stage, end in zip(self.config.stages, self.batches.ends, strict=True):
            if end > done or end == self.config.steps:
                self.trainee.model.visual.set_image_size(stage.image_size)
                yield end
        whole_model(self.trainee.model)

    def cost(self, teacher: Sequence[StepModel] = (), taught: Callable[[], float] = float) -> RunCost:
        """Return the cost of the model at its resolution, and of a teacher beside it (`pair_cost`)."""
        clip = self.towers.clip
        return pair_cost(
            self.config, clip.visual.config, clip.text.config, self.towers.cached is not None, teacher, taught
        )

    def train(self, task: Task, end: int, cost: RunCost | None, listener: Listener | None) -> None:
        """Train until step `end` by a task, made anew for each resolution; without `cost` no MFU is reported."""
        train(
            task,
            self.batches,
            self.config,
            self.out,
            self.fingerprint,
            listener,
            end,
            fit_positions,
            cost,
            self._trained,
        )
        self._trained = end

    def write(self) -> Path:
        """Write the weights, and those of the best validated step; return the path of the former."""
        path = self.out / WEIGHTS
        if self.rank.number == 0:
            metadata = {"seed": str(self.config.seed), "run": self.fingerprint}
            self.trainee.write(path, metadata)
            self.record["weight_hash"] = weight_hash(load_model(path))  # of the weights as written
            best = write_best(path, self.config, self.metric, lambda step, own: self._write_step(step, own, metadata))
            write_record(self.out, self.record | best)
        return path

    def _write_step(self, step: int, path: Path, metadata: dict[str, str]) -> None:
        """Write the weights as they were after a step."""
        trainee = Trainee(self.config, build_model(self.config), self.sources.vocabulary)
        stage = self.config.stages[self.batches.stage(step - 1)]
        trainee.model.visual.set_image_size(stage.image_size)
        load_weights(self.out, step, trainee.towers)
        trainee.write(path, metadata)


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


def fit_positions(name: str, saved: Tensor, current: Tensor) -> Tensor:
    """Resample a saved position table, or the optimizer's moments of one (`resume_run`'s `fit`)."""
    if "positional_embedding" not in name:
        raise CheckpointError(f"the checkpoint does not fit this run: {name} is {tuple(saved.shape)}")
    return resample_table(saved, len(current))


@torch.no_grad()
def average_with(model: CLIP, initial: CLIP, share: float) -> None:
    """Make a model's weights the mean of its own and `initial`'s, which counts by `share`, in place (WiSE-FT).

    Further training on other images forgets a little of what was there; between the two ends are weights that know most
    of both (arXiv 2109.01903), if the run stayed near enough to where it began: measure it.

    Position tables are resampled to the model's size; the logit scale is the model's own.
    """
    initial.visual.set_image_size(model.visual.config.image_size)
    others = dict(initial.named_parameters())
    for name, weight in model.named_parameters():
        if name != "logit_scale":
            weight.lerp_(others[name].to(weight), share)
