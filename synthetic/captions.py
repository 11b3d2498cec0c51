"""Captions of the built-in model's data, from a sample's metadata and colours.

First a kind is drawn by `SHARES`, then a wording. The most frequent kind puts the bare label into a template of the
zero-shot protocol (`PHOTO_TEMPLATES`), as evaluation does, article errors included ("a photo of a anchor."); the others
are better English.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from perception_encoder.data.pairs import object_name
from perception_encoder.preprocess.prompts import PHOTO_TEMPLATES

PLAIN_PHOTO = ("{}", "{}.", "a photo of {}", "a picture of {}", "an image of {}", "{} in a photo")
COLOURED = ("{}", "a photo of {}", "a picture of {}", "{} in {colours}")

SHARES: Mapping[str, float] = {
    "template": 0.5,
    "plain": 0.15,
    "coarse": 0.2,
    "colour": 0.1,
    "kind": 0.1,
    "tags": 0.15,
    "description": 0.1,
}
"""Share of each kind of caption, rescaled to the kinds available for a sample."""
LONGEST_SENTENCE = 22  # words: about 30 tokens of the text tower's 32
SINGULAR_IN_S = frozenset(("lens", "mars", "series", "species", "chess", "gps", "canvas", "iris"))
PLURALS = frozenset(("people", "men", "women", "children"))
UNCOUNTED = frozenset(
    (
        *("milk", "juice", "yoghurt", "cream", "garlic", "ginger", "asparagus", "bread", "rice", "money"),
        *("music", "water", "fire", "oatghurt", "soyghurt"),
    )
)
COLOURS = (
    *("black", "gray", "white", "beige", "brown", "red", "orange", "yellow"),
    *("green", "light blue", "blue", "purple", "pink"),
)
_KINDS: dict[str, tuple[type, str]] = {
    "coarse": (str, "a string"),
    "description": (str, "a string"),
    "tags": (list, "a list of strings"),
    "kids": (bool, "true or false"),
}
COLOUR_SHARE = 0.25  # of the image, for its colour to be named
WHITE_LEVEL = 244  # a white background
WHITE_BORDER = 0.8  # of the border, for a photograph to count as cut out over white


@dataclass(frozen=True, kw_only=True)
class CaptionStyle:
    """Wording of a source's captions; the default is for photographs."""

    drawn: bool = False
    """Whether the source's images are drawings on white."""
    templates: tuple[str, ...] = PHOTO_TEMPLATES
    """Templates of a bare label."""
    plain: tuple[str, ...] = PLAIN_PHOTO
    """Templates of a label with its article."""
    kinds: tuple[str, ...] = ()
    """Templates of a bare label that name the subject of all the source's images."""


PHOTO = CaptionStyle()


def wrong_field(metadata: Mapping[str, Any]) -> str | None:
    """Return an error message if a field used for captions has the wrong type; null counts as missing."""
    for name, (kinds, allowed) in _KINDS.items():
        value = metadata.get(name)
        if value is not None and not isinstance(value, kinds):
            return f"{name!r} is a {type(value).__name__}; it must be {allowed}"
    if wrong := [tag for tag in metadata.get("tags") or () if not isinstance(tag, str)]:
        return f"'tags' holds a {type(wrong[0]).__name__}; all must be strings"
    return None


def colour_words(image: np.ndarray, drawn: bool) -> tuple[str, ...]:
    """Return the names of up to two colours that cover much of `image`, (3, H, W) uint8, the larger first.

    A white background does not count, in drawings and in photographs with a white border. Other photographs are
    described by their middle.
    """
    border = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
    on_white = drawn or (border.min(axis=0) >= WHITE_LEVEL).mean() >= WHITE_BORDER
    if not on_white:
        height, width = image.shape[1:]
        image = image[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    step = max(1, min(image.shape[1:]) // 32)
    pixels = image[:, ::step, ::step].reshape(3, -1).T.astype(np.int32)  # (pixels, 3)
    if on_white:
        pixels = pixels[pixels.min(axis=1) < WHITE_LEVEL]
    if len(pixels) == 0:
        return ()
    shares = np.bincount(_name_pixels(pixels), minlength=len(COLOURS)) / len(pixels)
    order = np.argsort(-shares, kind="stable")[:2]
    return tuple(COLOURS[i] for i in order if shares[i] >= COLOUR_SHARE)


def name_colours(pixels: np.ndarray) -> np.ndarray:
    """Return the name in `COLOURS` of each colour, (n, 3) of 0..255 -> (n,) strings."""
    return np.array(COLOURS)[_name_pixels(pixels)]


def _name_pixels(pixels: np.ndarray) -> np.ndarray:
    """Return the index into `COLOURS` for each pixel (n, 3) of 0..255, by hue, saturation and value."""
    red, green, blue = pixels.T / 255.0
    value, low = pixels.max(axis=1) / 255.0, pixels.min(axis=1) / 255.0
    chroma = value - low
    safe = np.where(chroma > 0, chroma, 1)
    saturation = chroma / np.maximum(value, 1e-6)
    hue = np.select(
        [value == red, value == green],
        [(green - blue) / safe % 6, 2 + (blue - red) / safe],
        4 + (red - green) / safe,
    )
    hue *= 60  # degrees
    warm, pale = (hue >= 12) & (hue < 70), saturation < 0.5
    rules = {
        "black": value < 0.2,
        "white": (chroma < 0.1) & (value > 0.85),
        "gray": chroma < 0.1,
        "beige": warm & pale & (value > 0.6),
        "brown": (hue < 48) & (hue >= 12) & (value < 0.6),
        "pink": (hue >= 310) & (hue < 340) | ((hue < 12) | (hue >= 340)) & pale & (value > 0.6),
        "red": (hue < 12) | (hue >= 340),
        "orange": hue < 42,
        "yellow": (hue < 66) & (value > 0.5),
        "green": hue < 165,
        "light blue": (hue < 255) & pale & (value > 0.55),
        "blue": hue < 255,
    }
    purple = COLOURS.index("purple")
    return np.select(list(rules.values()), [COLOURS.index(name) for name in rules], purple)


def with_article(noun: str) -> str:
    """Return a noun with `a` or `an`, or alone if it is plural or uncountable."""
    head = re.split(r" (?:of|with|in|on|at|for|without)\b|,", noun)[0].split()
    if not head or head[0] in ("a", "an", "the") or _uncounted(head[-1]):
        return noun
    vowel = re.match(r"[aio]|e(?!u|we)|u(?!ni|s[ei]|te|ku|k\b)|hour|honest|x-ray", noun)
    return f"an {noun}" if vowel else f"a {noun}"


def _uncounted(word: str) -> bool:
    if word in UNCOUNTED | PLURALS:
        return True
    return word not in SINGULAR_IN_S and re.search(r"(?<![suai])s$", word) is not None


def captions(
    metadata: Mapping[str, Any], colours: Sequence[str] = (), style: CaptionStyle = PHOTO
) -> dict[str, list[str]]:
    """Return all captions of a sample by kind (the keys of `SHARES`), without kinds that it lacks."""
    metadata = {name: value for name, value in metadata.items() if value is not None}
    label = object_name(metadata)
    noun = with_article(label)
    texts_by_way = {
        "template": [template.format(label) for template in style.templates],
        "plain": [template.format(noun) for template in style.plain],
        "coarse": _coarse(metadata, label, style.templates),
        "colour": _coloured(label, colours),
        "kind": [template.format(label) for template in style.kinds] or _worn(metadata, label),
        "tags": _tagged(metadata.get("tags", ()), label, noun),
        "description": sentences(str(metadata.get("description", ""))),
    }
    return {way: texts for way, texts in texts_by_way.items() if texts}


def sentences(text: str) -> list[str]:
    """Return the sentences of a description that fit into the text tower's context."""
    parts = (part.strip() for part in re.split(r"(?<=[.!?])\s+", text))
    return [part for part in parts if 3 <= len(part.split()) <= LONGEST_SENTENCE]


def _coarse(metadata: Mapping[str, Any], label: str, templates: Sequence[str]) -> list[str]:
    coarse = str(metadata.get("coarse", "")).lower()
    if not coarse or coarse == label:
        return []
    return [*(template.format(coarse) for template in templates), f"{label}, a kind of {coarse}"]


def _coloured(label: str, colours: Sequence[str]) -> list[str]:
    if not colours or colours[0] in label:
        return []
    nouns = [with_article(f"{colours[0]} {label}")]
    if len(colours) > 1:
        nouns.append(with_article(f"{colours[0]} and {colours[1]} {label}"))
    both = " and ".join(colours)
    return [t.format(n) for n in nouns for t in COLOURED[:3]] + [COLOURED[3].format(with_article(label), colours=both)]


def _worn(metadata: Mapping[str, Any], label: str) -> list[str]:
    """Return captions of clothes that name the wearer."""
    if "kids" not in metadata:
        return []
    wearer = "a child" if metadata["kids"] else "an adult"
    worn = f"kids' {label}" if metadata["kids"] else label
    return [f"{with_article(label)} for {wearer}", f"{worn}, a piece of clothing", f"clothing: {worn}"]


def _tagged(tags: Sequence[str], label: str, noun: str) -> list[str]:
    tags = [tag for tag in tags if tag != label][:8]
    return [f"{noun}, {tag}" for tag in tags] + [f"{a}, {b}" for a, b in pairwise(tags)]
