"""The prompts of the stages: versioned files of this package, or files of your own, by name and hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from perception_encoder.errors import ConfigError

VIDEO_CAPTION, FRAME_CAPTION, SUMMARY = "video_caption_v1", "frame_caption_v1", "summary_v1"
"""The newest version of each."""
VIDEO_CAPTION_SHORT = "video_caption_short_v1"
"""Asks for one sentence, in the words of the captions that `pe train language_…` reads."""
FIELDS = ("metadata", "title", "description", "keywords", "video_caption", "frame_captions")
"""What a prompt of the summary may hold, such as `$title`; `$metadata` is a line for each of the next three."""


@dataclass(frozen=True)
class EnginePrompt:
    """A prompt, with `$fields` if it is that of the summary."""

    name: str
    text: str

    @property
    def hash(self) -> str:
        """SHA-256 of the text, the first 16 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text with its fields filled in; `$` in the values means nothing."""
        return Template(self.text).substitute(values)


def list_prompts() -> list[EnginePrompt]:
    """Return the prompts of this package, every version."""
    names = sorted(path.name for path in _directory().iterdir() if path.name.endswith(".txt"))
    return [load_prompt(name.removesuffix(".txt")) for name in names]


def load_prompt(name: str, fields: tuple[str, ...] = FIELDS) -> EnginePrompt:
    """Load a prompt of this package by its name, or a text file; ConfigError for neither, and for other `$fields`."""
    path = Path(name)
    if re.fullmatch(r"\w+_v\d+", name):
        packaged = _directory() / f"{name}.txt"
        if not packaged.is_file():
            known = sorted(each.name.removesuffix(".txt") for each in _directory().iterdir())
            raise ConfigError(f"no prompt is called {name!r}; give one of {', '.join(known)}, or a text file")
        return EnginePrompt(name, packaged.read_text(encoding="utf-8").strip())
    try:
        prompt = EnginePrompt(path.stem, path.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"the prompt {name} cannot be read: {reason}; `pe engine prompts` lists others") from None
    template = Template(prompt.text)
    if not prompt.text or not template.is_valid() or not set(template.get_identifiers()) <= set(fields):
        allowed = ", ".join(f"${field}" for field in fields) or "none"
        raise ConfigError(f"the prompt {name} must be a text whose fields are {allowed}; write $$ for a dollar")
    return prompt


def _directory() -> Path:
    return Path(str(files("perception_encoder.video_data_engine") / "prompt_texts"))
