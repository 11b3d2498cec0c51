"""The prompts of the stages: versioned files of this package, or your own text files, by name and hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from perception_encoder.errors import ConfigError
from perception_encoder.formats.entries import read_lines

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


def list_prompts() -> list[EnginePrompt]:
    """Return every version of this package's prompts."""
    directory = files("perception_encoder.video_data_engine") / "prompt_texts"
    texts = {path.name.removesuffix(".txt"): path.read_text(encoding="utf-8") for path in directory.iterdir()}
    return [EnginePrompt(name, texts[name].strip()) for name in sorted(texts)]


def load_prompt(name: str, fields: tuple[str, ...] = FIELDS) -> EnginePrompt:
    """Load a prompt of this package by name, or a text file.

    Raises ConfigError for an unknown version and unknown `$fields`, and DataError if the file cannot be read.
    """
    if re.fullmatch(r"\w+_v\d+", name):
        prompts = {prompt.name: prompt for prompt in list_prompts()}
        if name not in prompts:
            raise ConfigError(f"no prompt is called {name!r}; give one of {', '.join(prompts)}, or a text file")
        return prompts[name]
    prompt = EnginePrompt(Path(name).stem, "\n".join(read_lines(Path(name))).strip())
    template = Template(prompt.text)
    if not prompt.text or not template.is_valid() or not set(template.get_identifiers()) <= set(fields):
        allowed = ", ".join(f"${field}" for field in fields) or "none"
        raise ConfigError(f"the prompt {name} must be a text whose fields are {allowed}; write $$ for a dollar")
    return prompt
