"""Finetune the captioner on corrected captions of its clips: phase 2 of the paper's engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perception_encoder.datasets.pe_video import VideoRecord
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import holding, write_bytes, write_text
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.recipes import refinement
from perception_encoder.language_alignment.run import align_language
from perception_encoder.language_models.load import runs_elsewhere, unpack_perception_lm
from perception_encoder.language_models.weights import find_language_model, read_trained
from perception_encoder.progress import Track, untracked
from perception_encoder.store import SETTINGS
from perception_encoder.training.metrics import Listener
from perception_encoder.training.settings import override
from perception_encoder.video_data_engine.outputs import read_shard_clips
from perception_encoder.video_data_engine.run import read_engine_settings
from perception_encoder.video_dataset.annotation.export import read_corrections

CONVERSATIONS = "conversations.jsonl"


def refine_captioner(
    engine: str | Path,
    out: str | Path,
    captions: str | Path | Mapping[str, str] | None = None,
    model: str | Path | None = None,
    *,
    settings: Sequence[str] | Mapping[str, object] = (),
    track: Track = untracked,
    listener: Listener | None = None,
) -> Path:
    """Finetune a captioner on corrected captions of an engine's clips, or resume; return the file of the weights.

    Args:
        engine: A directory of `run_engine`, whose shards have the clips.
        out: The directory of the training run, which also gets the clips and conversations.
        captions: By `video_id`; a table with `video_id` and `human_caption`; or a file of annotations; by default
            ENGINE/annotations.sqlite, of `pe annotate`.
        model: A Perception-LM, `builtin-lang`, or a run of `pe train` or of an earlier refinement; by default the
            engine's.
        settings, listener: See `pe.train`.

    Raises:
        DataError: There are no captions, or a caption is of an unknown clip.
        ConfigError: The captioner does not run in this package, such as an endpoint.

    Examples:
        >>> pe.refine_captioner("captioned/", "runs/refined", settings={"steps": 100})
    """
    engine, out = Path(engine), Path(out)
    made = read_engine_settings(engine)
    prompt = made.prompts.get(name := Path(made.config.video_prompt).stem)
    if prompt is None:
        raise DataError(f"{engine / SETTINGS} has no text of the prompt {name}: restore a copy")
    texts = captions if isinstance(captions, Mapping) else read_corrections(engine, captions)
    captioner = str(model or made.config.captioner)
    if runs_elsewhere(captioner):
        raise ConfigError(
            f"{captioner} does not run in this package, so its weights cannot be trained; give another model to refine "
            "(-m): facebook/Perception-LM-1B, builtin-lang or a run of `pe train`"
        )
    initial = Path(find_language_model(captioner))
    with holding(out / "data.lock", f"another run is writing {out}; wait for it, or choose another directory"):
        clips = read_shard_clips(engine)
        lines = [
            _conversation(clips, key, texts[key], prompt, out)
            for key in track(list(texts), "copying clips", len(texts))
        ]
        write_text(out / CONVERSATIONS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        if not initial.is_file():
            initial = unpack_perception_lm(captioner, out / "captioner")
    parts, _ = read_trained(initial)
    config = override(replace(refinement(LanguageConfig.of_parts(parts)), initial=str(initial)), settings)
    return align_language(config, [out / CONVERSATIONS], out, track, listener)


@dataclass(frozen=True)
class PlannedRefinement:
    """What a refinement will do."""

    captioner: str
    steps: int
    video_prompt: str
    """The prompt that its captions answer."""


def plan_refinement(
    engine: str | Path, model: str | Path | None = None, settings: Sequence[str] | Mapping[str, object] = ()
) -> PlannedRefinement:
    """Return what `refine_captioner` will do with these arguments; ConfigError for an invalid setting."""
    made = read_engine_settings(Path(engine)).config
    steps = override(refinement(LanguageConfig()), settings).steps
    return PlannedRefinement(str(model or made.captioner), steps, made.video_prompt)


def _conversation(
    clips: Mapping[str, VideoRecord], key: str, caption: str, prompt: str, out: Path
) -> Mapping[str, Any]:
    if key not in clips:
        raise DataError(f"there is a caption of {key}, but the engine's shards have no such clip")
    path, content = out / "videos" / f"{key}.{clips[key].extension}", clips[key].video.read(key)
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)
    turns = [{"from": "human", "value": f"<video>\n{prompt}"}, {"from": "gpt", "value": caption}]
    return {"id": key, "video": f"videos/{path.name}", "conversations": turns}
