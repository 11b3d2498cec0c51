"""A pretraining run: its complete configuration, and what wires it to the data, the loop and a folder (section 2.1)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from perception_encoder.data.image_text import ImageTextSet
from perception_encoder.data.pairs import PairBatches, Stage, all_captions
from perception_encoder.data.progress import Track, untracked
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import replacing, writing
from perception_encoder.models.clip import CLIP
from perception_encoder.models.weights import create_model, load_model, weight_hash, write_checkpoint
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.vocabulary import CaptionVocabulary
from perception_encoder.train.checkpoint import check_run
from perception_encoder.train.loop import LoopConfig, train
from perception_encoder.train.metrics import Listener
from perception_encoder.train.optimizer import OptimizerConfig
from perception_encoder.train.seed import torch_generator


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """All that decides a run's result, but the data itself."""

    model: str
    """Name of a two-tower model of the registry."""
    stages: tuple[Stage, ...]
    """Resolutions, in order."""
    weights: Mapping[str, float]
    """Share of each source in a batch; sources that the data lacks are left out."""
    batch_size: int = 256
    warmup: int = 200
    """Steps of linear warm-up."""
    balance: float = 0.5
    """How far rare labels of a source are repeated: 0 not at all, 1 until all labels are equally frequent."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    image_side: int = 160
    """Pictures are kept in memory with their short side at most this, in pixels."""
    log_every: int = 20
    checkpoint_every: int = 200
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(stage.steps for stage in self.stages)

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "warmup": 0, "log_every": 1, "checkpoint_every": 1, "image_side": 1, "seed": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {lowest}")

    def fingerprint(self, data: Iterable[str] = ()) -> str:
        """Identity of the configuration, and of the data by the names of their samples."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode())
        for name in data:
            digest.update(b"\0" + name.encode())
        return digest.hexdigest()[:16]


def pretrain(
    config: PretrainingConfig,
    folders: Sequence[Path],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Run, or go on with, a pretraining; returns the weights it wrote, `OUT/model.safetensors` (half precision).

    `folders` hold `train.tar` or `train/*.tar`. Raises ConfigError, DataError, CheckpointError, OutputError.
    """
    model = create_model(config.model, generator=torch_generator(config.seed))
    if not isinstance(model, CLIP):
        raise ConfigError(f"{config.model} has no text tower; pretraining needs both")
    by_source = ImageTextSet.from_folder(folders, "train", config.image_side, track).by_source()
    used = {source: weight for source, weight in config.weights.items() if weight > 0 and source in by_source}
    if not used:
        raise DataError(f"no source of {', '.join(config.weights)} in the data, which has {', '.join(by_source)}")
    texts = {text for source in used for sample in by_source[source] for text in all_captions(sample)}
    vocabulary = CaptionVocabulary(tokenizer(model), texts)
    batches = PairBatches(
        [by_source[source].balanced(config.balance) for source in used],
        list(used.values()),
        config.batch_size,
        config.stages,
        config.augmentation,
        vocabulary,
        config.seed,
    )
    fingerprint = config.fingerprint(f"{source}/{sample.key}" for source in used for sample in by_source[source])
    check_run(out, fingerprint)
    record = describe(config, fingerprint, {source: len(by_source[source]) for source in used})
    _write_record(out, record)
    loop = LoopConfig(
        steps=config.steps,
        warmup=config.warmup,
        optimizer=config.optimizer,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
    )
    vocabulary.narrow(model)
    train(ContrastiveTask(model), batches, loop, out, fingerprint, listener)
    vocabulary.widen(model)
    path = out / "model.safetensors"
    metadata = {"seed": str(config.seed), "run": fingerprint}
    write_checkpoint(model, path, half=True, int8_tokens=True, metadata=metadata)
    _write_record(out, record | {"weight_hash": weight_hash(load_model(path))})  # of the rounded weights
    return path


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
