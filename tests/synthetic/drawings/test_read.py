"""Sources become labelled drawings: which pictures are kept, and what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from synthetic.drawings.read import read_emoji, read_openclipart
from synthetic.drawings.sources import find_source

PUBLIC_DOMAIN = "http://web.resource.org/cc/PublicDomain"


def write_emoji(directory: Path) -> tuple[Path, Path]:
    icons, names = directory / "icons", directory / "names"
    (names / "en").mkdir(parents=True)
    icons.mkdir()
    body = '<path d="M0 0h9v9z"/>'
    drawn = {
        "width": 36,
        "height": 36,
        "icons": {"cat": {"body": body}, "flag": {"body": body, "width": 40}, "skin": {"body": body}},
        "aliases": {"kitty": {"parent": "cat"}},
    }
    chars = {"1f408": "kitty", "1f3fc": "flag", "1f1e6": "skin", "2764": "gone"}
    emoji = [
        {"hexcode": "1F408-FE0F", "label": "cat", "group": 3, "tags": ["Pet", "cat"]},
        {"hexcode": "1F3FC", "label": "flag: “Iraq”", "group": 9},
        {"hexcode": "1F1E6", "label": "regional indicator A"},
        {"hexcode": "2764", "label": "heart", "group": 0},
        {"hexcode": "FFFF", "label": "nothing", "group": 0},
    ]
    (icons / "icons.json").write_text(json.dumps(drawn))
    (icons / "chars.json").write_text(json.dumps(chars))
    (names / "en" / "data.json").write_text(json.dumps(emoji))
    return icons, names


def test_emoji_take_names_and_tags_from_emojibase(tmp_path: Path) -> None:
    source = find_source("twemoji")
    cat, flag = read_emoji(*write_emoji(tmp_path), source)
    assert (cat.key, cat.label, cat.tags) == ("1f408-fe0f", "cat", ("pet",))
    assert (cat.licence, cat.attribution) == (source.licence, source.attribution)
    assert b'viewBox="0 0 36 36"' in cat.svg
    assert flag.label == "flag of iraq"
    assert b'viewBox="0 0 40 36"' in flag.svg


def clipart(title: str, licence: str = PUBLIC_DOMAIN, creator: str = "Ann Smith", tags: tuple[str, ...] = ()) -> str:
    items = "".join(f"<rdf:li>{tag}</rdf:li>" for tag in tags)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg"><metadata><rdf:RDF xmlns:cc="http://web.resource.org/cc/" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<cc:Work rdf:about=""><dc:title>{title}</dc:title><dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>'
        f"<dc:creator><cc:Agent><dc:title>{creator}</dc:title></cc:Agent></dc:creator>"
        f'<cc:license rdf:resource="{licence}"/></cc:Work></rdf:RDF></metadata></svg>'
    )


def read_one(directory: Path, place: str, text: str) -> tuple[str, tuple[str, ...]] | None:
    path = directory / "usr" / "share" / "openclipart" / "svg" / place
    path.parent.mkdir(parents=True)
    path.write_text(text)
    drawings = [(drawing.label, drawing.tags) for drawing in read_openclipart(directory, find_source("openclipart"))]
    return drawings[0] if drawings else None


@pytest.mark.parametrize(
    ("place", "title", "label", "tags"),
    [
        ("animals/birds/penguin_01.svg", "Emperor Penguin", "emperor penguin", ("bird", "zoo")),
        ("food/flan.svg", "Flat_Cake_2 (B and W)", "flat cake", ("food", "zoo")),
        ("plants/fern_0_symbol_1m_bwh.svg", "Map Symbols", "fern", ("plant", "zoo")),
        ("plants/ann.svg", "Ann Smith", "plant", ("zoo",)),
    ],
)
def test_clip_art_is_named_by_its_title_file_or_folder(
    tmp_path: Path, place: str, title: str, label: str, tags: tuple[str, ...]
) -> None:
    text = clipart(title, tags=("hash(0x8a)", "", "zoo", "icon"))
    drawing = read_one(tmp_path, place, text)
    assert drawing is not None
    assert drawing[0] == label
    assert drawing[1] == tags or drawing[1] == (place.split("/")[0].rstrip("s"), *tags)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("a/x.svg", clipart("gramastar")),
        ("a/x.svg", clipart("Flag of Peru")),
        ("a/x.svg", clipart("dog", licence="http://creativecommons.org/licenses/GPL/2.0/")),
        ("a/x.svg", "<svg"),
        ("a/x.svg", '<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ],
)
def test_unusable_clip_art_is_dropped(tmp_path: Path, place: str, text: str) -> None:
    assert read_one(tmp_path, place, text) is None
