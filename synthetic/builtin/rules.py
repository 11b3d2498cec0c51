"""What the built-in model's sources are: the wording of their captions, and what is held out of training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perception_encoder.data.pairs import Pair, object_name
from perception_encoder.errors import DataError
from perception_encoder.pretraining.sources import ImageTextSample, ImageTextSet, read_pairs
from perception_encoder.progress import Track, untracked
from synthetic.builtin.held_out import NEVER_TRAINED, find_unseen_labels
from synthetic.captions import PHOTO, SHARES, CaptionStyle, captions, colour_words, wrong_field
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


logger = logging.getLogger(__name__)


def style_of(source: object) -> CaptionStyle:
    """Return how captions of a source are worded; unknown sources hold photographs."""
    return STYLES.get(str(source), PHOTO)


@dataclass(frozen=True)
class BuiltinSample(ImageTextSample):
    """A sample whose captions also name colours and what else its metadata says."""

    colours: tuple[str, ...] = ()
    """Names of the dominant colours."""

    @property
    def pair(self) -> Pair:
        """The image with its captions, or with those made from the metadata and colours."""
        if self.texts:
            return super().pair
        return Pair(self.image, captions(self.metadata, self.colours, style_of(self.source)), SHARES, self.label)


def unseen_classes(path: Path) -> frozenset[str]:
    """Return the labels in a directory that the built-in models are never trained on."""
    return frozenset(label for _, label in find_unseen_labels(path))


def read_builtin(
    paths: Sequence[Path], split: str = "train", image_side: int = 160, track: Track = untracked
) -> ImageTextSet:
    """Read samples for a run of the built-in recipes: see `read_pairs`.

    What is never trained on is left out. DataError for training data with a source that is held out as a whole.
    """
    classes = {label for path in paths for label in unseen_classes(path)}
    samples = [_described(sample) for sample in read_pairs(paths, split, image_side, track)]
    used = [sample for sample in samples if sample is not None and object_name(sample.metadata) not in classes]
    if split == "train" and (refused := NEVER_TRAINED & {sample.source for sample in used}):
        where, names = ", ".join(map(str, paths)), ", ".join(refused)
        raise DataError(f"{where}: {names} must not be trained on; move it from `train` to `unseen`")
    return ImageTextSet([sample for sample in used if sample.source not in NEVER_TRAINED])


def _described(sample: ImageTextSample) -> BuiltinSample | None:
    """Return a sample with its colours; log one whose metadata cannot be used, and return None."""
    if problem := wrong_field(sample.metadata):
        logger.warning("left out %s: %s", sample.key, problem)
        return None
    colours = colour_words(sample.image.numpy(), style_of(sample.source).drawn)
    return BuiltinSample(sample.key, sample.image, sample.metadata, sample.texts, sample.of_shard, colours)
