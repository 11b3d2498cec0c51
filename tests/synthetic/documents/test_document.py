"""Documents by seed: the same everywhere, words where the ink is, printed answers, splits that share nothing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from perception_encoder.errors import ConfigError
from synthetic.documents.canvas import Canvas, TextStyle
from synthetic.documents.document import KINDS, SIDES, Document, document
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
from synthetic.documents.looks import LOOKS
from synthetic.documents.page import Page, bolder, title_case
from synthetic.documents.vocabulary import CATEGORIES, held_out_words, vocabulary
from synthetic.errors import MissingGroupError


def summary(drawn: Document) -> str:
    rest = repr((drawn.kind, drawn.look, drawn.content, drawn.words, drawn.questions))
    return hashlib.sha256(drawn.image.tobytes() + rest.encode()).hexdigest()


def test_a_seed_gives_the_same_document_in_another_process() -> None:
    code = (
        "import tests.synthetic.documents.test_document as t; from synthetic.documents.document import document;"
        "print(*(t.summary(document((3, number), size=256)) for number in range(8)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for number in reversed(range(4)):  # what was drawn before does not matter
        document(number)
    summaries = [summary(document((3, number), size=256)) for number in range(8)]
    assert run.stdout.split() == summaries and len(set(summaries)) == 8


def test_seeds_splits_and_kinds_differ() -> None:
    documents = [document(1, "table", split).content for split in ("train", "val")]
    documents += [document(2, "table").content, document((1, 2), "table").content]
    assert all(first != second for number, first in enumerate(documents) for second in documents[:number])
    assert {document(seed, size=160).kind for seed in range(40)} == set(KINDS)
    assert {document(seed, size=160).look for seed in range(40)} == set(LOOKS)
    drawn = document(5)
    assert summary(document(5, drawn.kind, look=drawn.look)) == summary(drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_the_content_does_not_depend_on_the_look(kind: str) -> None:
    drawn = {look: document(11, kind, look=look) for look in LOOKS}
    clean = drawn.pop("clean")
    for look, other in drawn.items():
        assert other.content == clean.content and other.layout == clean.layout
        assert [word.text for word in other.words] == [word.text for word in clean.words]
        questions = [question[:2] for question in other.questions]
        assert set(questions) <= {question[:2] for question in clean.questions}
        assert look == "print" or questions == [question[:2] for question in clean.questions]
        assert np.abs(np.asarray(other.image, dtype=float) - np.asarray(clean.image)).mean() > 1


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_ink_of_each_word_is_inside_its_box(kind: str, look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference to the same document without words."""
    render = Canvas.render
    for seed in range(2):
        full = document(seed, kind, look=look, size=(384, 320))
        with monkeypatch.context() as patch:
            patch.setattr(Canvas, "render", lambda canvas: render(canvas, with_words=False))
            empty = document(seed, kind, look=look, size=(384, 320))
        assert full.image.size == (384, 320) and full.image.mode == "RGB"
        ink = np.abs(np.asarray(full.image, dtype=int) - np.asarray(empty.image)).max(-1)
        blurred = look in ("print", "photo")  # blur and the blocks of a JPEG carry a little ink over the edges
        ink = ink > (60 if blurred else 8)
        outside = ink.copy()
        for _, (left, top, right, bottom) in full.words:
            assert 0 <= left < right <= 384 and 0 <= top < bottom <= 320
            assert ink[top:bottom, left:right].any()
            edge = 2 if blurred else 0
            outside[max(0, top - edge) : bottom + edge, max(0, left - edge) : right + edge] = False
        assert not outside.any()


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_tight(kind: str) -> None:
    """A word's ink reaches close to each edge of its box, so that boxes cannot be right by being large."""
    drawn = document(4, kind, look="clean")
    for text, (left, top, right, bottom) in drawn.words:
        pixels = np.asarray(drawn.image, dtype=int)[top:bottom, left:right]
        ink = np.abs(pixels - np.median(pixels.reshape(-1, 3), axis=0)).max(-1) > 40
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        margin = 3 + 0.2 * (bottom - top)
        assert rows[0] <= 1 and bottom - top - rows[-1] <= 2, text
        assert columns[0] <= margin and right - left - columns[-1] <= margin, text


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_with_a_box_is_printed_there(kind: str, split: str, draw_many, printed) -> None:
    for drawn in draw_many(kind, split, 15):
        assert len(drawn.questions) >= 3
        assert len({question for question, *_ in drawn.questions}) == len(drawn.questions)
        for question, answer, box, _ in drawn.questions:
            assert question.endswith("?") and 0 < len(answer) < 60
            if box is not None:
                assert printed(drawn, box) == answer, question


@pytest.mark.parametrize("kind", KINDS)
def test_yes_and_no_are_balanced(kind: str, draw_many) -> None:
    tasks = ("yes_no",)
    answers = [question.answer for drawn in draw_many(kind) for question in drawn.questions if question.task in tasks]
    assert set(answers) == {"yes", "no"}
    if kind != "form":  # whose fields are filled in more often than not
        assert 0.3 < answers.count("yes") / len(answers) < 0.7


@pytest.mark.parametrize("kind", KINDS)
def test_test_shares_no_layout_font_or_held_out_word_with_train(kind: str, draw_many) -> None:
    drawn = {split: draw_many(kind, split) for split in ("train", "val", "test")}
    layouts = {split: {item.layout for item in documents} for split, documents in drawn.items()}
    fonts = {split: {name for item in documents for name in item.fonts} for split, documents in drawn.items()}
    texts = {
        split: " ".join(word.text for item in documents for word in item.words).lower().split()
        for split, documents in drawn.items()
    }
    held_out = held_out_words()
    for split in ("train", "val"):
        assert not layouts[split] & layouts["test"] and not fonts[split] & fonts["test"]
        assert not held_out & set(texts[split])
    assert layouts["train"] == layouts["val"] and len(layouts["train"]) >= 3
    assert held_out & set(texts["test"])
    assert fonts["test"] <= {family.name for family in FAMILIES if family.test}


@pytest.mark.parametrize("side", [224, 256])
@pytest.mark.parametrize("lines", [3, 4, 5])
def test_short_receipts_are_legible_at_a_small_side(side: int, lines: int) -> None:
    for seed in range(6):
        drawn = document(seed, "receipt", size=side, look="clean", lines=lines, text_height=9)
        assert len(drawn.content["items"]) == lines
        digits = [word for word in drawn.words if word.text.strip("$€£.").replace(".", "").isdigit()]
        assert len(digits) > lines
        assert all(bottom - top >= 9 for _, (_, top, _, bottom) in digits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(160, 160), (1024, 700)])
def test_other_sizes(kind: str, size: tuple[int, int]) -> None:
    assert document(0, kind, size=size, look="photo").image.size == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "letter"}, "kind is 'letter'; it must be one of receipt, form"),
        ({"look": "old"}, "look is 'old'; it must be one of clean"),
        ({"split": "all"}, "split is 'all'; it must be one of train, val, test"),
        ({"split": None}, "split is None"),
        ({"size": 64}, f"from {SIDES[0]} to {SIDES[1]} px"),
        ({"size": (448, 4000)}, "size is 448 × 4000"),
        ({"kind": "receipt", "lines": 40}, "lines is 40; a receipt has from 1 to 16"),
        ({"text_height": 1}, "text_height is 1; it must be from 5"),
        ({"kind": "table", "size": 224, "lines": 12, "text_height": 30}, "does not fit: 224 × 224 px, lines 12"),
    ],
)
def test_bad_arguments_are_clear_errors(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        document(0, **arguments)


STYLE = TextStyle(Face(FAMILIES[0]), 12)


def test_text_is_split_into_words_from_left_to_right() -> None:
    canvas = Canvas(200, 60)
    assert canvas.text(10, 30, "two small words", STYLE) == (0, 1, 2)
    assert canvas.text(10, 50, "more", STYLE) == (3,)
    assert [word.text for word in canvas.words] == ["two", "small", "words", "more"]
    edges = [edge for word in canvas.words[:3] for edge in (word.box[0], word.box[2])]
    assert edges == sorted(edges) and canvas.fits()


@pytest.mark.parametrize("align", ["left", "middle", "right"])
def test_alignment(align) -> None:
    canvas = Canvas(300, 60)
    canvas.text(150, 40, "some words", STYLE, align)
    left, right = canvas.words[0].box[0], canvas.words[-1].box[2]
    anchor = {"left": left, "middle": (left + right) / 2, "right": right}[align]
    assert abs(anchor - 150) <= 2


def test_words_that_overlap_or_leave_the_page_do_not_fit() -> None:
    def page(*places: tuple[float, float]) -> Canvas:
        canvas = Canvas(120, 60)
        for x, y in places:
            canvas.text(x, y, "word", STYLE)
        return canvas

    assert page((10, 30), (10, 50)).fits() and page((10, 30), (60, 30)).fits()
    assert not page((10, 30), (20, 35)).fits()
    assert not page((100, 30)).fits() and not page((10, 5)).fits() and not page((-5, 30)).fits()
    assert not page().fits()
    canvas = page((10, 30))
    canvas.require(True)
    assert canvas.fits()
    canvas.require(False)
    canvas.require(True)
    assert not canvas.fits()


def test_shapes_are_below_the_words_and_smooth() -> None:
    canvas = Canvas(100, 40, paper=(255, 255, 255))
    canvas.text(10, 30, "I", STYLE)
    canvas.rectangle((0, 0, 100, 40), fill=(200, 0, 0))
    image = np.asarray(canvas.render())
    left, top, right, bottom = canvas.words[0].box
    assert (image[top:bottom, left:right].min((0, 1)) < 60).all() and tuple(image[0, 99]) == (200, 0, 0)
    assert (np.asarray(canvas.render(with_words=False)) == (200, 0, 0)).all()
    canvas.line([(0, 0), (100, 40)], (0, 0, 200), 3)
    assert len(np.unique(np.asarray(canvas.render(with_words=False))[..., 0])) > 2  # tones between both colours


def test_straight_shapes_have_sharp_edges() -> None:
    canvas = Canvas(100, 40)
    canvas.rectangle((10, 5, 30, 20), fill=(0, 0, 0))
    canvas.dots(40, 80, 20, (0, 0, 0), dash=4)
    pixels = np.asarray(canvas.render())[..., 0]
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels[5:20, 10:30] == 0).all() and (pixels[:, 31:39] == 255).all()
    assert 0.4 < (pixels[20, 40:80] == 0).mean() < 0.8


def page(split: str = "train", lines: int | None = None, room: float = 1.0) -> Page:
    return Page(Canvas(200, 100), np.random.default_rng(0), split, 10, lines, room, exact=False)


def test_lines_are_those_asked_for_else_fewer_with_each_try() -> None:
    assert {page(lines=7).count(3, 14) for _ in range(5)} == {7}
    first, late = page(), page(room=0.2)
    assert {first.count(3, 14) for _ in range(300)} == set(range(3, 15))
    assert {late.count(3, 14) for _ in range(100)} == {3, 4, 5}
    assert page(room=0).count(3, 14) == 3


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_choices_are_of_the_split(split: str) -> None:
    drawn = page(split)
    assert {drawn.layout((("a", "b"), ("c",))) for _ in range(30)} == ({"c"} if split == "test" else {"a", "b"})
    words = drawn.words("item", 9)
    assert len(set(words)) == 9 and set(words) <= set(vocabulary("item", split))
    style = drawn.style("hand", "mono")
    assert style.face.family.test == (split == "test") and drawn.families == [style.face.family.name]
    assert style.height == 10 and not style.face.bold


def test_yes_or_no_asks_either_question() -> None:
    drawn = page()
    asked = {drawn.yes_or_no(("a?", "b?"))[:2] for _ in range(30)}
    assert asked == {("a?", "yes"), ("b?", "no")}


def test_styles() -> None:
    style = page().style("sans")
    assert bolder(style, 1.5).face.bold and bolder(style, 1.5).height == 15
    assert title_case(style, "Exit") == "Exit"
    capitals = page("test").style("display")
    assert title_case(capitals, "Exit") == "EXIT"


def test_the_group_pins_the_packages_of_all_families(root: Path) -> None:
    groups = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    requirements = map(Requirement, groups["synthetic"])
    pinned = {
        requirement.name: requirement.specifier
        for requirement in requirements
        if requirement.name.startswith("fontpkg-")
    }
    assert {f"fontpkg-{family.name}" for family in FAMILIES} == set(pinned)
    for name, specifier in pinned.items():
        assert [item.operator for item in specifier] == ["=="] and importlib.metadata.version(name) in specifier


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


@pytest.mark.parametrize("category", CATEGORIES)
def test_test_shares_no_entry_with_train(category: str) -> None:
    train, test = vocabulary(category, "train"), vocabulary(category, "test")
    assert vocabulary(category, "val") == train
    assert len(set(train)) == len(train) >= 8 and len(set(test)) == len(test) >= 4
    words = {word.lower() for entry in train for word in entry.split()}
    for entry in test:
        assert entry not in train
        assert set(entry.lower().split()) & held_out_words(), f"all words of {entry!r} occur in train"
    assert not held_out_words() & words
