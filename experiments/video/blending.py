"""Blend captions and an uploader's text into one caption by a rule.

It stands for the engine's large language model: SmolLM2-135M, which works offline, repeats its prompt instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from synthetic.captions import with_article
from synthetic.scenes.language.phrases import join_phrases
from synthetic.video_dataset.truth import MentionReader, split_sentences

AGREED = 2
"""Sources that must name an object that the video's caption lacks: frame captions, or the uploader."""


class Blender:
    """Blends texts about videos with objects of known classes."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._reader = MentionReader(classes)

    def blend(self, metadata: str, video: str, frames: Sequence[str] = ()) -> str:
        """Return the video's caption and the objects that it lacks and `AGREED` other texts name, or all lacking ones
        of the uploader if there are no frame captions."""
        named = Counter(name for text in (metadata, *frames) for name in self._names(text))
        least = AGREED if frames else 1
        known = self._names(video)
        missing = [name for name in named if named[name] >= least and name not in known]
        caption = video if video.endswith(".") else f"{video}."
        return f"{caption} With {join_phrases([with_article(name) for name in missing])}." if missing else caption

    def _names(self, text: str) -> list[str]:
        """The classes that a text names, each once."""
        return list(dict.fromkeys(m.name for sentence in split_sentences(text) for m in self._reader.find(sentence)))
