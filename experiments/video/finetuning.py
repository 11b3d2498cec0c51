"""Finetune the built-in model on clips with the captions of an arm, and evaluate it on images and videos."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.video.clips import Clip
from experiments.video.evaluation import VideoEvaluation
from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.data.streams import Shards, StreamConfig
from perception_encoder.evaluation.statistics.scores import ItemScores
from perception_encoder.files import write_json
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.inference.load import load
from perception_encoder.models.checkpoints.weights import load_model, weight_hash, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import BUILTIN
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.recipes import video_finetune_builtin
from perception_encoder.pretraining.run import pretrain
from perception_encoder.progress import Track, untracked
from perception_encoder.training.metrics import Listener

FORMAT = 1
"""Of cached scores."""
TEXTS = "text"


def finetuning(steps: int, seed: int) -> PretrainingConfig:
    """The run of every arm: as many steps, whatever the number of clips."""
    config = video_finetune_builtin()
    return dataclasses.replace(
        config,
        stages=(ResolutionStage(image_size=config.stages[0].image_size, steps=steps),),
        streams=StreamConfig(captions={TEXTS: 1.0}),
        seed=seed,
    )


def write_arm(clips: Sequence[Clip], texts: Mapping[str, Sequence[str]], path: Path) -> Path:
    """Write a shard of clips, each with the captions that are drawn for it, unless it is there; return it."""
    if not path.is_file():
        write_members(path, _members(clips, texts))
    return path


def _members(clips: Sequence[Clip], texts: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, bytes]]:
    for clip in clips:
        yield f"{clip.key}.mp4", clip.path.read_bytes()
        yield f"{clip.key}.json", json_bytes({TEXTS: list(texts[clip.key])})


def train_arm(
    shard: Path, out: Path, steps: int, seed: int, track: Track = untracked, listener: Listener | None = None
) -> Path:
    """Finetune on a shard, or go on; return the weights."""
    return pretrain(finetuning(steps, seed), [Shards(str(shard))], out, track, listener)


def before_finetuning(out: Path) -> Path:
    """Write the built-in model at the resolution of the finetuning, unless it is there; return the file."""
    path = out / "builtin.safetensors"
    if not path.is_file():
        model = load_model(BUILTIN)
        assert isinstance(model, CLIP)
        model.visual.set_image_size(finetuning(1, 0).stages[0].image_size)
        write_checkpoint(model, path, half=False)
    return path


def evaluate_arm(
    weights: Path, evaluation: VideoEvaluation, cache: Path, track: Track = untracked
) -> dict[str, list[ItemScores]]:
    """Return the scores of a model by set; from `cache` if they are there."""
    depends = json.dumps([FORMAT, evaluation.digest, weight_hash(load_model(weights))])
    path = cache / f"{hashlib.sha256(depends.encode()).hexdigest()[:20]}.json"
    if not path.is_file():
        scores = evaluation.run(load(weights), track)
        write_json(
            path, {name: [dataclasses.asdict(item) for item in listed] for name, listed in scores.items()}, indent=None
        )
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {name: [ItemScores(**fields) for fields in listed] for name, listed in stored.items()}
