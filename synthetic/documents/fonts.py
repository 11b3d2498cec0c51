"""The fonts of documents: families of pinned PyPI packages, so that every machine draws with the same files."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import ImageFont

from synthetic.errors import MissingGroupError

FontStyle = Literal["sans", "serif", "mono", "hand", "display"]
MEASURED = 200
"""Size at which the height of capital letters is measured, in pixels per em."""


class Family(NamedTuple):
    """A font family: two files of a package `fontpkg-NAME`."""

    name: str
    style: FontStyle
    regular: str
    bold: str
    test: bool = False
    """Held out: only documents of the test split use it."""
    capitals: bool = False
    """It draws small letters as capitals."""


FAMILIES = (
    Family("pt-sans", "sans", "PT_Sans-Web-Regular", "PT_Sans-Web-Bold"),
    Family("oxygen", "sans", "Oxygen-Regular", "Oxygen-Bold"),
    Family("barlow", "sans", "Barlow-Regular", "Barlow-Bold"),
    Family("hind", "sans", "Hind-Regular", "Hind-Bold", test=True),
    Family("pt-serif", "serif", "PT_Serif-Web-Regular", "PT_Serif-Web-Bold"),
    Family("zilla-slab", "serif", "ZillaSlab-Regular", "ZillaSlab-Bold"),
    Family("crimson-text", "serif", "CrimsonText-Regular", "CrimsonText-Bold", test=True),
    Family("ibm-plex-mono", "mono", "IBMPlexMono-Regular", "IBMPlexMono-Bold"),
    Family("dm-mono", "mono", "DMMono-Regular", "DMMono-Medium"),
    Family("space-mono", "mono", "SpaceMono-Regular", "SpaceMono-Bold", test=True),
    Family("kalam", "hand", "Kalam-Regular", "Kalam-Bold"),
    Family("indie-flower", "hand", "IndieFlower-Regular", "IndieFlower-Regular"),
    Family("shadows-into-light", "hand", "ShadowsIntoLight", "ShadowsIntoLight", test=True),
    Family("anton", "display", "Anton-Regular", "Anton-Regular"),
    Family("lobster", "display", "Lobster-Regular", "Lobster-Regular"),
    Family("permanent-marker", "display", "PermanentMarker-Regular", "PermanentMarker-Regular", capitals=True),
    Family("bebas-neue", "display", "BebasNeue-Regular", "BebasNeue-Regular", test=True, capitals=True),
)


class Face(NamedTuple):
    """A family in regular or bold."""

    family: Family
    bold: bool = False


def families_of(split: str, *styles: FontStyle) -> list[Family]:
    """Return the families that a split may use, of these styles."""
    return [family for family in FAMILIES if family.test == (split == "test") and family.style in styles]


def font_file(face: Face) -> Path:
    """Return the TrueType file of a face; MissingGroupError if its package is not installed."""
    package = f"fontpkg-{face.family.name}"
    spec = importlib.util.find_spec(package.replace("-", "_"))
    name = f"{face.family.bold if face.bold else face.family.regular}.ttf"
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(directory) / "files" / name).is_file():
            return path
    raise MissingGroupError(package)


@lru_cache(maxsize=512)
def load_font(face: Face, em: float) -> ImageFont.FreeTypeFont:
    """Load a face at a size in pixels per em; its glyphs do not depend on optional libraries."""
    return ImageFont.truetype(font_file(face), em, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=64)
def _capital_height(face: Face) -> float:
    return -load_font(face, MEASURED).getbbox("H", anchor="ls")[1] / MEASURED


def font_of_height(face: Face, height: float) -> ImageFont.FreeTypeFont:
    """Load a face whose capital letters are `height` pixels high, or up to a few tenths more."""
    return load_font(face, -(-height / _capital_height(face) * 4 // 1) / 4)


@lru_cache(maxsize=16384)
def advance(face: Face, height: float, character: str) -> float:
    """Return how far a character moves the pen, in pixels, at this height of capital letters."""
    return font_of_height(face, height).getlength(character)
