"""Phase 2 of the paper's engine: finetune the captioner on captions of its clips that people corrected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import holding, replacing, write_text, writing
from perception_encoder.formats.entries import quoted
from perception_encoder.formats.tables import find_column, read_table
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.load import find_language_model
from perception_encoder.language_alignment.run import align_language
from perception_encoder.language_alignment.text.adapters import DecoderLoRA
from perception_encoder.language_alignment.weights import read_trained
from perception_encoder.progress import Track, untracked
from perception_encoder.training.metrics import Listener
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.validation import ValidationConfig
from perception_encoder.video_data_engine.outputs import ShardClip, read_shard_clips
from perception_encoder.video_data_engine.run import SETTINGS, read_engine_settings

KEYS = ("video_id", "key", "id")
CAPTIONS = ("human_caption", "refined_caption", "caption", "text")
"""Columns of a table of corrected captions: the first of these that it has."""
CONVERSATIONS = "conversations.jsonl"


def refinement(captioner: str) -> LanguageConfig:
    """Return how a captioner is finetuned: projector and adapters, 500 steps; the paper leaves the rates open.

    `captioner`: `builtin-lang`, or what `pe train language_…` or an earlier refinement wrote. Raises ConfigError for
    another model.
    """
    initial = Path(find_language_model(captioner))
    if not initial.is_file():
        raise ConfigError(f"{captioner} was not trained by this package; refine builtin-lang or a run of `pe train`")
    parts, _ = read_trained(initial)
    return replace(
        LanguageConfig.of_parts(parts),
        initial=str(initial),
        train_decoder=True,
        lora=parts.lora or DecoderLoRA(),
        steps=500,
        batch_size=8,
        warmup=20,
        optimizer=OptimizerConfig(name="adamw", lr=1e-4),
        validation=ValidationConfig(every=100, share=0.05, size=64),
        checkpoint_every=100,
    )


def find_video_prompt(engine: Path) -> str:
    """Return the prompt of an engine's video captions, a name or a file; DataError if `engine` is not its output."""
    prompt = read_engine_settings(engine)["config"].get("video_prompt")
    if not isinstance(prompt, str):
        raise DataError(f"{engine / SETTINGS}: `video_prompt` is {quoted(prompt)}; it must be a prompt: restore a copy")
    return prompt


def refine_captioner(
    engine: Path,
    captions: Path | Mapping[str, str],
    config: LanguageConfig,
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Finetune a captioner on corrected captions of an engine's clips, or resume that; return the weights it wrote.

    `engine`: a directory of `run_engine`, whose shards have the clips. `captions`: by `video_id`, or a table for
    `read_captions`. Clips and conversations are written to `out` beside the weights. Raises what `align_language` does,
    and DataError for captions of clips that the engine does not have.
    """
    name = Path(find_video_prompt(engine)).stem
    prompt = read_engine_settings(engine)["prompts"].get(name)
    if not isinstance(prompt, str):
        raise DataError(f"{engine / SETTINGS} has no text of the prompt {name}: restore a copy")
    texts = read_captions(captions) if isinstance(captions, Path) else captions
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with holding(out / "data.lock", f"another run is writing {out}; wait for it, or choose another directory"):
        clips = read_shard_clips(engine)
        lines = [
            _conversation(clips, key, texts[key], prompt, out)
            for key in track(list(texts), "copying clips", len(texts))
        ]
        write_text(out / CONVERSATIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return align_language(config, [out / CONVERSATIONS], out, track, listener)


def read_captions(table: Path) -> dict[str, str]:
    """Read corrected captions by clip from a table with `video_id` and `human_caption`; DataError without any."""
    rows = read_table(table)
    key = find_column(rows, KEYS, table, "clips")
    caption = find_column(rows, CAPTIONS, table, "captions")
    texts = {str(row[key]): text for row in rows if (text := str(row[caption] or "").strip())}
    if not texts:
        raise DataError(f"{table} has no caption in its column {caption!r}")
    return texts


def _conversation(clips: Mapping[str, ShardClip], key: str, caption: str, prompt: str, out: Path) -> Mapping[str, Any]:
    """A conversation to train on; its clip is copied unless it is there."""
    if key not in clips:
        raise DataError(f"there is a caption of {key}, but the engine's shards have no such clip")
    path, content = out / "videos" / f"{key}.{clips[key].suffix}", clips[key].video.read(key)
    if not path.is_file() or path.read_bytes() != content:
        with writing(path), replacing(path) as temporary:
            temporary.write_bytes(content)
    turns = [{"from": "human", "value": f"<video>\n{prompt}"}, {"from": "gpt", "value": caption}]
    return {"id": key, "video": f"videos/{path.name}", "conversations": turns}
