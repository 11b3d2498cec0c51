"""What the built-in model's sources are: the wording of their captions, and what is held out of training."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.data.captions import CaptionStyle, SourceRules
from synthetic.builtin.held_out import NEVER_TRAINED, find_unseen_labels
from synthetic.drawings.sources import SOURCES

DRAWING_TEMPLATES = (
    "a drawing of a {}.",
    "a drawing of the {}.",
    "a rendering of a {}.",
    "a rendering of the {}.",
    "a cartoon {}.",
    "the cartoon {}.",
    "art of a {}.",
    "art of the {}.",
    "a doodle of a {}.",
    "a sketch of a {}.",
    "a photo of a {}.",
    "a photo of the {}.",
)
PLAIN_DRAWING = (
    "{}",
    "{}.",
    "a drawing of {}",
    "a picture of {}",
    "an illustration of {}",
    "clip art of {}",
    "{} icon",
)
PLAIN_EMOJI = (*PLAIN_DRAWING, "an emoji of {}", "{} emoji")
STYLES: dict[str, CaptionStyle] = {
    source.name: CaptionStyle(
        drawn=True,
        templates=DRAWING_TEMPLATES,
        plain=PLAIN_EMOJI if source.registry == "npm" else PLAIN_DRAWING,
    )
    for source in SOURCES
} | {
    "flowers": CaptionStyle(kinds=("a photo of a {}, a type of flower.", "a {} flower", "a flower: a {}")),
    "grocery": CaptionStyle(kinds=("{} in a grocery store", "{} on a shop shelf", "food: {}")),
}
"""How captions of a source are worded, by its name."""


def _unseen_classes(path: Path) -> frozenset[str]:
    return frozenset(label for _, label in find_unseen_labels(path))


RULES = SourceRules(styles=STYLES, held_out=NEVER_TRAINED, find_held_out=_unseen_classes)
"""What runs of the built-in recipes apply to their data."""
