"""Finetune the captioner on corrected captions of its clips: phase 2 of the paper's engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perception_encoder.datasets.pe_video import VideoRecord
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.files import holding, replacing, write_bytes, write_text, writing
from perception_encoder.formats.tables import find_column, read_table
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.run import align_language
from perception_encoder.language_models.decoder import DecoderLoRA
from perception_encoder.language_models.load import load_language_model, runs_elsewhere
from perception_encoder.language_models.weights import (
    PE_LANG,
    WEIGHTS,
    Parts,
    find_language_model,
    read_trained,
    write_language_model,
)
from perception_encoder.models.checkpoints.weights import write_checkpoint
from perception_encoder.preprocess.source import TABLE_SUFFIXES
from perception_encoder.progress import Track, untracked
from perception_encoder.store import SETTINGS
from perception_encoder.training.metrics import Listener
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.settings import override
from perception_encoder.training.task import ValidationConfig
from perception_encoder.video_data_engine.outputs import read_shard_clips
from perception_encoder.video_data_engine.run import read_engine_settings
from perception_encoder.video_dataset.annotation.progress import read_refinements
from perception_encoder.video_dataset.annotation.project import FILE_NAME, AnnotationProject

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


def refinement(captioner: LanguageConfig) -> LanguageConfig:
    """Return the recipe: projector and adapters, 500 steps; the paper does not state the rates."""
    return replace(
        captioner,
        train_decoder=True,
        lora=captioner.lora or DecoderLoRA(),
        steps=500,
        batch_size=8,
        warmup=20,
        optimizer=OptimizerConfig(name="adamw", lr=1e-4),
        validation=ValidationConfig(every=100, share=0.05, size=64),
        checkpoint_every=100,
    )


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


def unpack_perception_lm(name: str, out: Path) -> Path:
    """Write a Perception-LM as the file of a run, beside its encoder and its language model, unless it is there."""
    if not out.is_dir():
        model = load_language_model(ModelSpec(name, "cpu", "torch", "float32"))
        projector, tower, decoder = model.model.projector, model.model.vision, model.decoder
        tower.name = PE_LANG
        parts = Parts(
            encoder=str(out / "encoder.safetensors"),
            decoder=str(out / "decoder"),
            context=decoder.prompts.context,
            chat_template=decoder.prompts.template,
            pool=projector.pool,
            media=model.media,
        )
        with writing(out), replacing(out) as temporary:
            write_checkpoint(tower, temporary / "encoder.safetensors")
            decoder.tokenizer.save_pretrained(temporary / "decoder")
            decoder.model.save_pretrained(temporary / "decoder")  # type: ignore[operator]
            write_language_model(temporary / WEIGHTS, parts, model.model, vision=False, decoder=False, half=False)
    return out / WEIGHTS


def read_corrections(engine: Path, captions: str | Path | None = None) -> dict[str, str]:
    """Read corrected captions by clip, from a table or an annotation project; DataError if there are none."""
    path = Path(captions or engine / FILE_NAME)
    if path.suffix in TABLE_SUFFIXES:
        rows = read_table(path)
        key = find_column(rows, ["video_id"], path, "clips")
        caption = find_column(rows, ["human_caption"], path, "captions")
        texts = {str(row[key]): text for row in rows if (text := str(row[caption] or "").strip())}
    else:
        if not path.is_file():
            remedy = f"correct captions with: pe annotate {engine}, or give --captions FILE"
            raise DataError(f"{path} does not exist; {remedy}")
        project = AnnotationProject(engine, path)
        texts = {refinement.key: refinement.caption for refinement in read_refinements(project)}
        project.close()
    if not texts:
        raise DataError(f"{path} has no corrected caption; continue with: pe annotate {engine}")
    return texts


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
