"""Rules about named sources of training data: how their captions are worded, and what must not be trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from perception_encoder.data.captions import PHOTO, CaptionStyle


def _nothing(path: Path) -> AbstractSet[str]:
    return frozenset()


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What must not be trained on; by default nothing."""

    sources: frozenset[str] = frozenset()
    """Sources that are refused in training data."""
    class_source: str | None = None
    """The source whose classes are partly held out."""
    classes: frozenset[str] = frozenset()
    """Those classes: samples of their labels, of any source, are left out beside shards of `class_source`."""
    find_classes: Callable[[Path], AbstractSet[str]] = _nothing
    """Finds those classes in a directory of data, all of whose splits can be read."""


@dataclass(frozen=True, kw_only=True)
class SourceRules:
    """What is known of sources by their names; by default nothing."""

    styles: Mapping[str, CaptionStyle] = field(default_factory=dict)
    """Wording of captions; other sources hold photographs."""
    held_out: HeldOut = field(default_factory=HeldOut)

    def style(self, source: object) -> CaptionStyle:
        """Return how captions of a source are worded."""
        return self.styles.get(str(source), PHOTO)
