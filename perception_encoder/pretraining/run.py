"""A pretraining run: its complete configuration, and what wires it to the data, the loop and a folder (section 2.1)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception_encoder.data.pairs import PairBatches, Stage
from perception_encoder.data.streams import Shards, StreamConfig
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.files import replacing, writing
from perception_encoder.models.checkpoints.weights import load_model, weight_hash, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.initialization import initialize
from perception_encoder.models.layers.positions import resample_table
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.preprocess.mixing import Mixing
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.averaging import average_with
from perception_encoder.pretraining.cost import RunCost, TeacherCost
from perception_encoder.pretraining.kept_texts import MOST, KeptTexts
from perception_encoder.pretraining.lora import LoRA, add_adapters, merge_adapters
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.pretraining.sources import open_sources
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers
from perception_encoder.progress import Track, untracked
from perception_encoder.ranks import Rank
from perception_encoder.train.checkpoint import check_run, find_checkpoints, run_folder
from perception_encoder.train.distributed import (
    Exchange,
    ParallelConfig,
    own_cores,
    own_device,
    process_group,
    whole_model,
)
from perception_encoder.train.loop import LoopConfig, train
from perception_encoder.train.metrics import Listener
from perception_encoder.train.optimizer import OptimizerConfig
from perception_encoder.train.seed import torch_generator
from perception_encoder.train.task import Task

PROCEDURE = 2
"""Version of what a run does with its configuration. Raise it with a change after which the same configuration, data
and seed train other weights (1: crops larger than the image were clipped, positions were drawn at the last resolution):
then a run that an earlier version began is not resumed. Published results refer to runs by their configuration alone.
"""


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """All that decides a run's result, but the data itself."""

    model: str
    """Name of a two-tower model of the registry."""
    stages: tuple[Stage, ...]
    """Resolutions, in order."""
    initial: str | None = None
    """Name or path of the weights to begin with, as the cooldown and finetuning do; random ones by default."""
    initial_share: float = 0.0
    """Share of the weights to begin with in those that come out, which are a mean of both ends."""
    locked: str | None = None
    """A tower that keeps its weights: "visual" or "text". A locked text tower encodes each caption once, where all are
    known, at most 131,072, and no more than the pairs of the run."""
    lora: LoRA | None = None
    """Adapters alone are trained, and merged into the weights at the end."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Share of each source in a batch; sources that the data lacks are left out. None given: every source counts by the
    number of its samples, as class directories and tables of one's own do anyway."""
    batch_size: int = 256
    warmup: int = 200
    """Steps of linear warm-up."""
    balance: float = 0.5
    """How far rare labels of a source are repeated: 0 not at all, 1 until all labels are equally frequent."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    """Step 8 of section 2.1; without it pictures are squashed to a square and nothing more."""
    masking: MaskRegularization | None = None
    """Step 9."""
    mixing: Mixing | None = None
    """Pictures are mixed with each other, for runs that see each of few pictures often (not the paper's)."""
    rope: bool = True
    """Step 6."""
    attention_pool: bool = True
    """Step 7; without it the class token is the picture's embedding."""
    patch_size: int | None = None
    """Side of a patch in pixels, by default the model's."""
    layers: int | None = None
    """Depth of the vision tower, by default the model's."""
    text_tower: str | None = None
    """Name of the model whose text tower it has, by default its own."""
    frames: int | None = None
    """Frames of a video, where the run is on videos (section 2.2)."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    half: bool = True
    """Write the weights for use, in float16 and the token table in int8; else in float32, for a run that goes on from
    them, without loss."""
    keep: int = 2
    """Newest checkpoints that are kept, beside the best."""
    skip_bad_losses: int = 0
    """Steps in a row whose loss is not finite that are left out; one more ends the run."""
    image_side: int = 160
    """Pictures are kept in memory with their short side at most this, in pixels."""
    streams: StreamConfig = field(default_factory=StreamConfig)
    """How shards are read, where the data are not folders; then the shards' own weights count."""
    log_every: int = 20
    checkpoint_every: int = 200
    checkpoint_minutes: float = 5.0
    """A checkpoint is also written so long after the last one."""
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(stage.steps for stage in self.stages)

    @property
    def samples(self) -> int:
        """Pairs of the whole run."""
        return sum(stage.steps * (stage.batch_size or self.batch_size) for stage in self.stages)

    def __post_init__(self) -> None:
        if self.locked not in (None, "visual", "text"):
            raise ConfigError(f"locked is {self.locked!r}; it must be 'visual' or 'text'")
        if not 0 <= self.initial_share < 1:
            raise ConfigError(f"initial_share is {self.initial_share}; it must be at least 0 and below 1")
        if self.initial_share and self.initial is None:
            raise ConfigError("initial_share: a run from random weights has none to average with; set initial")
        if self.frames is not None and self.masking is not None:
            raise ConfigError("frames and masking: videos have no masked copies; set masking=null")
        if self.frames is not None and self.mixing is not None:
            raise ConfigError("frames and mixing: pictures are mixed, not videos; set mixing=null")
        if self.lora is not None and (self.initial is None or self.masking or self.parallel.kind == "fsdp"):
            raise ConfigError("lora adapts the weights of `initial`, without masking and without fsdp")
        least = {"batch_size": 1, "warmup": 0, "log_every": 1, "checkpoint_every": 1, "image_side": 1, "seed": 0}
        least["checkpoint_minutes"] = 0
        least |= {name: 1 for name in ("frames", "patch_size", "layers") if getattr(self, name) is not None}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {lowest}")

    def fingerprint(self, data: Iterable[str] = ()) -> str:
        """Identity of the configuration, and of the data by names of their samples or shards.

        A setting at its default does not count, so that a later version's new settings leave old runs what they are.
        """
        digest = hashlib.sha256(json.dumps(_chosen(self), sort_keys=True).encode())
        for name in data:
            digest.update(b"\0" + name.encode())
        return digest.hexdigest()[:16]


def _chosen(value: Any) -> Any:
    """What of a configuration is not as it is by default, dataclasses inside of it likewise."""
    if isinstance(value, Mapping):
        return {name: _chosen(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_chosen(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    chosen = {}
    for each in dataclasses.fields(value):
        factory = each.default_factory
        default = each.default if factory is dataclasses.MISSING else factory()
        if getattr(value, each.name) != default:
            chosen[each.name] = _chosen(getattr(value, each.name))
    return chosen


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a run minimises, where that is not the contrastive loss (distillation's)."""

    make_task: Callable[[Towers], Task]
    """Made anew for each resolution, which the towers have then."""
    picture_size: int
    """Pictures of a batch are at least this large; the task scales them down for the towers."""
    identity: str
    """What else the result depends on: a teacher's weights."""
    teacher: TeacherCost | None
    """What a teacher costs; None where it is a model that nobody has formulas for, and then the run has no MFU."""


def pretrain(
    config: PretrainingConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
    objective: Objective | None = None,
) -> Path:
    """Run, or go on with, a pretraining; returns the weights it wrote, `OUT/model.safetensors`.

    `data` are folders that hold `train.tar` or `train/*.tar`, class directories or tables, read into memory, or shards,
    read as they are needed.
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
    vocabulary = sources.vocabulary
    batches = PairBatches(
        sources.sets,
        sources.weights,
        config.batch_size,
        _picture_stages(config, objective),
        config.augmentation,
        vocabulary or dataclasses.replace(tokenizer(model), warns=False),
        config.seed,
        rank=rank,
        exchange=exchange,
        masks=config.masking.draw if config.masking else None,
        mixing=config.mixing,
        patch=model.visual.config.patch_size,
        workers=1 if vocabulary else own_cores(),
        bad_share=config.streams.bad_share,
        resampled=config.streams.resampled,
    )
    identity = [objective.identity] if objective else []
    fingerprint = config.fingerprint([f"procedure {PROCEDURE}", *sources.names, *identity])
    check_run(out, fingerprint)
    record = describe(config, fingerprint, sources.samples)
    if rank.number == 0:
        _write_record(out, record)
    table = model.text.token_embedding.weight.detach() if config.initial else None
    kept = None
    if vocabulary:
        vocabulary.narrow(model)
        if config.locked == "text" and len(vocabulary.captions) <= min(MOST, config.samples):
            kept = KeptTexts(model.text.to(own_device()), vocabulary.captions, track)
    train_stages(model, batches, config, _loop(config), out, fingerprint, listener, objective, kept)
    path = out / "model.safetensors"
    if rank.number == 0:
        if vocabulary:
            vocabulary.widen(model, table)
        if config.initial_share:
            average_with(model, build_model(config), config.initial_share)
        metadata = {"seed": str(config.seed), "run": fingerprint}
        write_checkpoint(model, path, half=config.half, int8_tokens=config.half, metadata=metadata)
        _write_record(out, record | {"weight_hash": weight_hash(load_model(path))})  # of the weights as written
    return path


def _loop(config: PretrainingConfig) -> LoopConfig:
    """What of a run the training loop is told."""
    return LoopConfig(
        steps=config.steps,
        warmup=config.warmup,
        optimizer=config.optimizer,
        parallel=config.parallel,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        checkpoint_minutes=config.checkpoint_minutes,
        keep=config.keep,
        skip_bad_losses=config.skip_bad_losses,
    )


def train_stages(
    model: CLIP,
    batches: PairBatches,
    config: PretrainingConfig,
    loop: LoopConfig,
    out: Path,
    fingerprint: str,
    listener: Listener | None,
    objective: Objective | None = None,
    kept: KeptTexts | None = None,
) -> None:
    """Train a model through all resolutions, in place (step 2 of section 2.1).

    At each switch the run goes through its checkpoint: the position table, and the optimizer's moments of it, are
    resampled as they are read, and all else is kept. The model comes out at the last resolution, on the CPU.
    """
    model.set_grad_checkpointing(config.parallel.checkpointing)
    if config.locked is not None:
        model.get_submodule(config.locked).requires_grad_(False)
    adapters = None if config.lora is None else add_adapters(model, config.lora, config.locked, config.seed)
    towers = Towers(model, config.masking is not None, config.parallel.chunk, kept)
    weight = config.masking.weight if config.masking else 0.0
    done = max((state.step for _, state in find_checkpoints(out)), default=0)
    trained = 0
    for stage, end in zip(config.stages, batches.ends, strict=True):
        if end > done or end == config.steps:
            model.visual.set_image_size(stage.image_size)
            # what runs in parallel is made anew for each resolution
            cost = _run_cost(config, model, kept is not None, objective)
            task = objective.make_task(towers) if objective else ContrastiveTask(towers, weight)
            train(task, batches, loop, out, fingerprint, listener, end, fit_positions, cost, trained)
            trained = end
    whole_model(model)
    if adapters is not None:
        merge_adapters(adapters)


def _run_cost(config: PretrainingConfig, model: CLIP, texts_kept: bool, objective: Objective | None) -> RunCost | None:
    """Of the model at its resolution."""
    teacher = objective.teacher if objective else None
    if objective and teacher is None:
        return None
    return RunCost(config, model.visual.config, model.text.config, texts_kept, teacher)


def _picture_stages(config: PretrainingConfig, objective: Objective | None) -> list[Stage]:
    """The stages with the pictures' sizes instead of the towers'."""
    least = objective.picture_size if objective else 0
    return [dataclasses.replace(stage, image_size=max(stage.image_size, least)) for stage in config.stages]


def build_model(config: PretrainingConfig) -> CLIP:
    """The model that a run begins with; ConfigError where it has no text tower, or `initial` is another model."""
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


def tower_configs(config: PretrainingConfig) -> tuple[VisionConfig, TextConfig]:
    """The towers that a run trains; ConfigError where the model has no text tower."""
    entry = find_model(config.model)
    text, output = find_model(config.text_tower or config.model).text, entry.vision.output_dim
    if text is None or output is None:
        raise ConfigError(f"{config.text_tower or config.model} has no text tower; pretraining needs both")
    vision = dataclasses.replace(
        entry.vision,
        patch_size=config.patch_size or entry.vision.patch_size,
        depth=config.layers or entry.vision.depth,
        rope=config.rope,
        attention_pool=config.attention_pool and entry.vision.attention_pool,
    )
    return vision, dataclasses.replace(text, output_dim=output)


def fit_positions(name: str, saved: Tensor, wanted: Tensor) -> Tensor:
    """A saved position table, or the optimizer's moments of one, for another resolution (`resume_run`'s `fit`)."""
    if "positional_embedding" not in name:
        raise CheckpointError(f"the checkpoint does not fit this run: {name} is {tuple(saved.shape)}")
    return resample_table(saved, len(wanted))


def _write_record(out: Path, record: Mapping[str, Any]) -> None:
    with writing(out / "config.json"), replacing(out / "config.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def describe(config: PretrainingConfig, fingerprint: str, samples: Mapping[str, int]) -> dict[str, Any]:
    """The record of a run: resolved configuration, samples a source, versions."""
    return {
        "config": dataclasses.asdict(config),
        "fingerprint": fingerprint,
        "samples": dict(samples),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
