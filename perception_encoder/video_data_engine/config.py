"""Settings of an engine run: those that affect the clips and are stored with them, those of the work, and prompts.

A prompt is a versioned file of this package, or your own text file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from perception_encoder.conversation.assistant import PAUSE, TRIES
from perception_encoder.errors import ConfigError
from perception_encoder.formats.entries import read_lines
from perception_encoder.language_models.decoder import SMOLLM2
from perception_encoder.models.registry import BUILTIN_LANG
from perception_encoder.records import Checked, Count, Positive, Weight

VIDEO_CAPTION, FRAME_CAPTION, SUMMARY = "video_caption_v1", "frame_caption_v1", "summary_v1"
"""The newest version of each prompt."""
VIDEO_CAPTION_SHORT = "video_caption_short_v1"
"""Asks for one sentence, in the wording of the captions that `pe train language_…` reads."""
FIELDS = ("metadata", "title", "description", "keywords", "video_caption", "frame_captions")
"""Fields that a summary prompt may use, such as `$title`; `$metadata` has a line for each of the next three."""


@dataclass(frozen=True)
class EnginePrompt:
    """A prompt; a summary prompt may have `$fields`."""

    name: str
    text: str

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the text's SHA-256."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text with its fields filled in; `$` in a value does not start a field."""
        return Template(self.text).substitute(values)


def load_prompt(name: str, fields: tuple[str, ...] = FIELDS) -> EnginePrompt:
    """Load a prompt of this package by name, or a text file.

    Raises ConfigError for an unknown version and unknown `$fields`, and DataError if the file cannot be read.
    """
    if re.fullmatch(r"\w+_v\d+", name):
        directory = files("perception_encoder.video_data_engine") / "prompt_texts"
        names = sorted(path.name.removesuffix(".txt") for path in directory.iterdir())
        if name not in names:
            raise ConfigError(f"no prompt is called {name!r}; give one of {', '.join(names)}, or a text file")
        return EnginePrompt(name, (directory / f"{name}.txt").read_text(encoding="utf-8").strip())
    prompt = EnginePrompt(Path(name).stem, "\n".join(read_lines(Path(name))).strip())
    template = Template(prompt.text)
    if not prompt.text or not template.is_valid() or not set(template.get_identifiers()) <= set(fields):
        allowed = ", ".join(f"${field}" for field in fields) or "none"
        raise ConfigError(f"the prompt {name} must be a text whose fields are {allowed}; write $$ for a dollar")
    return prompt


@dataclass(frozen=True, kw_only=True)
class EngineConfig(Checked):
    """Models, prompts and sampling of a run; runs with different settings cannot share an output."""

    captioner: str = BUILTIN_LANG
    """Model that captions videos; `load_engine_model` lists its forms."""
    frame_captioner: str = ""
    """Model that captions single frames; if empty, the captioner of videos."""
    llm: str = ""
    """Model that writes the summary; if empty, the captioner of videos, or SmolLM2 for the built-in one."""
    video_prompt: str = ""
    """Prompt of the video caption: a name of `load_prompt`, or a file. If empty, the short one for the built-in
    captioner, which follows no other, else the detailed one."""
    frame_prompt: str = FRAME_CAPTION
    summary_prompt: str = SUMMARY
    longest: Positive = 30.0
    """Maximum seconds of a clip: longer videos are split at shot changes, and longer shots evenly."""
    shortest: Positive = 2.0
    """Minimum seconds of a shot: a shorter one is merged with the one before it."""
    frames: Count = 8
    """Frames of a clip that the captioner sees, sampled as in the published PLM."""
    captioned_frames: Count = 3
    """Number of these that are also captioned one by one, evenly spaced; the paper does not state it."""
    side: Count = 448
    """Maximum short side of frames in pixels; larger frames are reduced."""
    video_tokens: Count = 160
    """Maximum tokens of a video caption; the published ones have 112 words on average."""
    frame_tokens: Count = 48
    summary_tokens: Count = 160
    """Maximum tokens of a summary: its prompt asks for about 120."""

    def __post_init__(self) -> None:
        if not self.frame_captioner:
            object.__setattr__(self, "frame_captioner", self.captioner)
        if not self.llm:
            object.__setattr__(self, "llm", SMOLLM2 if self.captioner == BUILTIN_LANG else self.captioner)
        models = {self.captioner, self.frame_captioner, self.llm} - {SMOLLM2}
        if BUILTIN_LANG in models and len(models) > 1:
            other = min(models - {BUILTIN_LANG})
            raise ConfigError(
                f"{BUILTIN_LANG} is a demo model, and {other} is not; give both captioners and the language model "
                f"without {BUILTIN_LANG}, or try the engine with {BUILTIN_LANG} alone"
            )
        if not self.video_prompt:
            prompt = VIDEO_CAPTION_SHORT if self.captioner == BUILTIN_LANG else VIDEO_CAPTION
            object.__setattr__(self, "video_prompt", prompt)
        super().__post_init__()
        if self.captioned_frames > self.frames:
            raise ConfigError(f"captioned_frames is {self.captioned_frames}; a clip has {self.frames} frames")
        if 2 * self.shortest > self.longest:
            raise ConfigError(
                f"the longest clip is {self.longest:g} s and the shortest {self.shortest:g} s; "
                "the longest must be at least twice as long as the shortest"
            )


@dataclass(frozen=True, kw_only=True)
class WorkConfig(Checked):
    """Workers, batches, timeouts and retries; results do not depend on them."""

    workers: Count = 2
    """Processes that decode."""
    batch_size: Count = 8
    """Clips that a model captions together, or concurrent requests to an endpoint."""
    timeout: Positive = 120.0
    """Seconds for one attempt at one item: probing or decoding a video, or an answer."""
    tries: Count = TRIES
    """Attempts after a crash, a timeout or a failure of an endpoint."""
    pause: Weight = PAUSE
    """Seconds before an endpoint's second attempt; each later pause is twice as long."""
    failures_in_a_row: Count = 5
    """Number of consecutive service failures after which the run stops."""
