"""Fonts come from the pinned packages of the dependency group, and from nowhere else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from synthetic.documents.document import document
from synthetic.documents.fonts import (
    FAMILIES,
    Face,
    _capital_height,
    advance,
    families_of,
    font_file,
    font_of_height,
    load_font,
)
from synthetic.errors import MissingGroupError


def test_the_group_pins_the_packages_of_all_families(root: Path) -> None:
    groups = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    requirements = map(Requirement, groups["synthetic"])
    pinned = {each.name: each.specifier for each in requirements if each.name.startswith("fontpkg-")}
    assert {f"fontpkg-{family.name}" for family in FAMILIES} == set(pinned)
    for name, specifier in pinned.items():
        assert [each.operator for each in specifier] == ["=="] and importlib.metadata.version(name) in specifier


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_has_both_files_and_a_free_licence(family) -> None:
    for bold in (False, True):
        path = font_file(Face(family, bold))
        licence = (path.parent.parent / "LICENSE").read_text(encoding="utf-8")
        assert "SIL OPEN FONT LICENSE" in licence.upper() or "Apache License" in licence
    characters = {bytes(font_of_height(Face(family), 40).getmask(sign)) for sign in "$€£.:/-"}
    assert len(characters) == 7  # none is drawn as a missing glyph


@pytest.mark.parametrize("style", ["sans", "serif", "mono", "hand", "display"])
def test_each_style_holds_out_a_family(style) -> None:
    train, test = families_of("train", style), families_of("test", style)
    assert len(train) >= 2 and len(test) >= 1 and not set(train) & set(test)
    assert families_of("val", style) == train


@pytest.mark.parametrize("height", [7, 9, 23.4])
def test_capital_letters_have_the_height(height: float) -> None:
    for family in FAMILIES:
        top = -font_of_height(Face(family), height).getbbox("H", anchor="ls")[1]
        assert height <= top + 0.5 and top <= height + 2, family.name


def test_advances_add_up_to_the_width() -> None:
    face = Face(FAMILIES[7])  # of one width, so without kerning
    assert sum(advance(face, 10, character) for character in "12.50") == font_of_height(face, 10).getlength("12.50")


def test_without_the_packages_the_error_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    load_font.cache_clear()
    _capital_height.cache_clear()
    advance.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingGroupError, match=r"fontpkg-\S+ is not installed; .*pip install --group synthetic"):
        document(0, "sign")
