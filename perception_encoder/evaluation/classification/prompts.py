"""Prompt ensembles (section 2.5, appendix B.1.2): a class as the mean embedding of many sentences about it.

`{}` stands for the class. The templates are those that OpenAI published with CLIP, bad articles included.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.inputs import check_finite
from perception_encoder.formats.entries import read_lines
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.prompts import PHOTO_TEMPLATES
from perception_encoder.progress import Track, untracked
from perception_encoder.vectors import unit_rows

IMAGENET_TEMPLATES = tuple(
    (files("perception_encoder.evaluation.classification") / "imagenet_templates.txt").read_text("utf-8").splitlines()
)
"""80 templates for images."""

_MEDIA = ("a photo", "a video", "a example", "a demonstration")
_DOING = ("", "using ", "doing ", "during ", "performing ", "practicing ")
KINETICS_TEMPLATES = tuple(
    f"{medium} of {doer}{{}}." for medium in _MEDIA for doer in ("", *(f"a person {doing}" for doing in _DOING))
)
"""28 templates for actions in videos."""

ACTION_TEMPLATES = tuple(
    f"{medium} of {article} person {doing}{{}}." for doing in _DOING for article in ("a", "the") for medium in _MEDIA
)
"""48 templates for the actions of UCF101 and HMDB51."""

PROMPTS: Mapping[str, tuple[str, ...]] = {
    "imagenet": IMAGENET_TEMPLATES,
    "kinetics": KINETICS_TEMPLATES,
    "actions": ACTION_TEMPLATES,
    "photo": PHOTO_TEMPLATES,
    "name": ("{}",),
}
"""Templates by the name that results are labelled with; `photo` has those of ImageNet's 80 that the built-in model's
captions use, all about plain photographs."""


DATASET = "dataset"
"""Name of the prompts that come with a dataset."""


def find_templates(name: str) -> tuple[str, ...]:
    """Return the named templates, or the lines of a file, with {} or {c} for the class; ConfigError otherwise."""
    if name in PROMPTS:
        return PROMPTS[name]
    if not os.path.isfile(name):
        raise ConfigError(f"unknown prompts {name!r}; choose from {', '.join(PROMPTS)}, or give a file of templates")
    try:
        lines = [line.strip().replace("{c}", "{}") for line in read_lines(Path(name)) if line.strip()]
    except DataError as error:
        raise ConfigError(str(error)) from None
    if not lines or any(line.count("{}") != 1 for line in lines):
        raise ConfigError(f"{name} must hold one template per line, each with one {{}} or {{c}} for the class")
    return tuple(lines)


def prompted_name(label: str, prompts: str) -> str:
    """Return a class's name for prompts: without parentheses under `kinetics`, as in the reference's evaluation.

    "passing American football (in game)" is then "passing American football in game".
    """
    return label.replace("(", "").replace(")", "") if prompts == "kinetics" else label


CHUNK = 4096  # prompts that are encoded at a time


def ensemble(
    encoder: Encoder, classes: Sequence[str], templates: Sequence[str], track: Track = untracked
) -> np.ndarray:
    """Return unit vectors of the classes (K, D): the renormalised mean over templates of unit text vectors.

    Raises ModelError if a vector is not finite.
    """
    texts = [template.replace("{}", name) for name in classes for template in templates]
    starts = range(0, len(texts), CHUNK)
    vectors = np.concatenate(
        [
            check_finite(encoder.encode_texts(texts[start : start + CHUNK]), encoder.name, "the prompts")
            for start in track(starts, "encoding prompts", len(starts))
        ]
    )
    return unit_rows(vectors.reshape(len(classes), len(templates), -1).mean(axis=1))  # (K, D)
