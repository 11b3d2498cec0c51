"""What the experiment compares: encoders that are aligned on scenes, and a language model trained on texts alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perception_encoder.datasets.questions.question import Question
from perception_encoder.files import write_text
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.run import align_language
from perception_encoder.language_models.decoder import FRESH, Decoder
from perception_encoder.language_models.load import load_language_model
from perception_encoder.language_models.weights import read_tower
from perception_encoder.models.checkpoints.weights import write_checkpoint
from perception_encoder.models.registry import BUILTIN
from perception_encoder.progress import Track, untracked
from perception_encoder.training.optimizer import OptimizerConfig
from synthetic.questions.conversations import SceneRecords
from synthetic.scenes.samples.reading import read_scene_tars

REGULARIZATION = 0.1
"""LayerScale and DropPath of the paper."""


READ = ("source", "label", "caption", "questions")
"""Fields of a scene that encoders are aligned on."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How the encoders are aligned."""

    side: int = 128
    steps: int = 900
    batch_size: int = 32
    texts: int = 300
    """Steps of the language model that reads texts alone."""


def align(runs: Path, scenes: Path, config: Alignment, seed: int, regularized: bool, track: Track = untracked) -> Path:
    """Align the built-in encoder on the scenes' questions and captions, or go on; return its tower's file.

    Raises what `align_language` does.
    """
    name = f"aligned-{'regularized' if regularized else 'plain'}-{seed}"
    tower = runs / f"{name}.safetensors"
    if not tower.is_file():
        settings = alignment_config(config, seed, regularized)
        reader = partial(SceneRecords, apart=settings.apart)
        path = align_language(settings, [without_boxes(scenes, runs)], runs / name, track, read_shard=reader)
        write_checkpoint(read_tower(path), tower, half=False)
    return tower


def alignment_config(config: Alignment, seed: int, regularized: bool) -> LanguageConfig:
    """The run of an alignment."""
    return LanguageConfig(
        encoder=BUILTIN,
        decoder=FRESH,
        image_size=config.side,
        context=1024,
        apart=True,
        layer_scale=REGULARIZATION if regularized else None,
        drop_path=REGULARIZATION if regularized else 0.0,
        train_vision=True,
        train_decoder=True,
        steps=config.steps,
        batch_size=config.batch_size,
        warmup=config.steps // 20,
        optimizer=OptimizerConfig(name="adamw", lr=1e-3),
        validation=None,
        half=False,
        seed=seed,
    )


def without_boxes(scenes: Path, out: Path) -> Path:
    """Write the training scenes without their objects, so that no box is asked for; return the shard."""
    path = out / "scenes.tar"
    if not path.is_file():
        write_members(path, _members(scenes))
    return path


def _members(scenes: Path) -> Iterator[tuple[str, bytes]]:
    for scene in read_scene_tars(sorted((scenes / "train").glob("*.tar"))):
        yield f"{scene.key}.jpg", scene.image
        yield f"{scene.key}.json", json_bytes({name: scene.metadata[name] for name in READ if name in scene.metadata})


def pretrained_decoder(runs: Path, questions: Sequence[Question], config: Alignment) -> Callable[[int], Decoder]:
    """Return what makes a language model, by its seed, that was trained on questions and answers without images."""

    def make(seed: int) -> Decoder:
        out = runs / f"texts-{seed}"
        texts = write_texts(questions, runs / "texts.jsonl")
        settings = alignment_config(config, seed, regularized=False)
        text_config = LanguageConfig(
            **{**vars(settings), "train_vision": False, "cached": False, "steps": config.texts}
        )
        align_language(text_config, [texts], out)
        return load_language_model(ModelSpec(out, "cpu", precision="float32")).decoder

    return make


def write_texts(questions: Sequence[Question], path: Path) -> Path:
    """Write questions with answers in words as conversations without images."""
    groups: dict[str, list[dict[str, str]]] = {}
    for question in questions:
        if question.answers:
            turns = groups.setdefault(question.block, [])
            turns += [{"from": "human", "value": question.question}, {"from": "gpt", "value": question.answers[0]}]
    write_text(path, "".join(f"{json.dumps({'id': key, 'conversations': turns})}\n" for key, turns in groups.items()))
    return path
