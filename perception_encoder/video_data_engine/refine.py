"""Phase 2 of the paper's engine: finetune the captioner on captions of its clips that people corrected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import holding, replacing, write_text, writing
from perception_encoder.formats.entries import read_json
from perception_encoder.formats.tables import find_column, read_table
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.load import find_language_model
from perception_encoder.language_alignment.run import align_language
from perception_encoder.language_alignment.text.adapters import DecoderLoRA
from perception_encoder.language_alignment.weights import read_trained
from perception_encoder.progress import Track, untracked
from perception_encoder.train.metrics import Listener
from perception_encoder.train.optimizer import OptimizerConfig
from perception_encoder.train.validation import ValidationConfig
from perception_encoder.video_data_engine.journal import Journal
from perception_encoder.video_data_engine.record import FRAMES, PROBE
from perception_encoder.video_data_engine.settings import SETTINGS
from perception_encoder.video_data_engine.videos.extract import extract_clip
from perception_encoder.video_data_engine.videos.listing import restore_item

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
    if not (engine / SETTINGS).is_file():
        raise DataError(f"{engine} is not an output of `pe engine run`: it has no {SETTINGS}")
    return str(read_json(engine / SETTINGS)["config"]["video_prompt"])


def refine_captioner(
    engine: Path,
    captions: Path,
    config: LanguageConfig,
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Finetune a captioner on corrected captions of an engine's clips, or resume that; return the weights it wrote.

    `engine`: a directory of `run_engine`. `captions`: a table with the clips' `video_id` and their `human_caption`.
    Clips and conversations are written to `out` beside the weights. Raises what `align_language` does, and DataError
    for captions of clips that the engine does not have.
    """
    prompt_name = Path(find_video_prompt(engine)).stem
    prompt = read_json(engine / SETTINGS)["prompts"][prompt_name]
    rows = read_table(captions)
    key = find_column(rows, KEYS, captions, "clips")
    caption = find_column(rows, CAPTIONS, captions, "captions")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with holding(out / "data.lock", f"another run is writing {out}; wait for it, or choose another directory"):
        journal = Journal(engine)
        texts = {str(row[key]): text for row in rows if (text := str(row[caption] or "").strip())}
        lines = [
            _conversation(journal, name, texts[name], prompt, out)
            for name in track(list(texts), "copying clips", len(texts))
        ]
        if not lines:
            raise DataError(f"{captions} has no caption in its column {caption!r}")
        write_text(out / CONVERSATIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return align_language(config, [out / CONVERSATIONS], out, track, listener)


def _conversation(journal: Journal, key: str, caption: str, prompt: str, out: Path) -> Mapping[str, Any]:
    """A conversation to train on; its clip is copied unless it is there."""
    if FRAMES not in journal.results.get(key, {}):
        raise DataError(f"there is a caption of {key}, but the engine has no such clip")
    clip = next(iter(sorted((out / "videos").glob(f"{key}.*"))), None)
    if clip is None:
        frames = journal.results[key][FRAMES]
        probe = journal.results[frames["video"]][PROBE]
        suffix, content = extract_clip(restore_item(probe, frames["start"], frames["end"]))
        clip = out / "videos" / f"{key}.{suffix}"
        with writing(clip), replacing(clip) as temporary:
            temporary.write_bytes(content)
    turns = [{"from": "human", "value": f"<video>\n{prompt}"}, {"from": "gpt", "value": caption}]
    return {"id": key, "video": f"videos/{clip.name}", "conversations": turns}
