"""Captions of the built-in model's data say what the metadata says, in the protocol's wording and in English."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perception_encoder.data.pairs import draw_text
from synthetic.captions import COLOURS, SHARES, captions, colour_words, with_article

GROCERY: dict[str, Any] = {
    "source": "grocery",
    "label": "Royal Gala",
    "coarse": "apple",
    "description": f"Royal Gala is sweet and crisp. It is {'very ' * 40} good. Red. Grown in the south of Sweden!",
}


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("anchor", "an anchor"),
        ("cup", "a cup"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("user", "a user"),
        ("ukulele", "a ukulele"),
        ("hourglass", "an hourglass"),
        ("euphonium", "a euphonium"),
        ("shoes", "shoes"),
        ("bass", "a bass"),
        ("platypus", "a platypus"),
        ("lens", "a lens"),
        ("people holding hands", "people holding hands"),
        ("flag of netherlands", "a flag of netherlands"),
        ("man in suits", "a man in suits"),
        ("arla standard milk", "arla standard milk"),
        ("the end", "the end"),
    ],
)
def test_articles(noun: str, expected: str) -> None:
    assert with_article(noun) == expected


def test_photographs_use_the_protocols_templates_as_they_stand() -> None:
    texts = captions({"source": "caltech101", "label": "anchor"})
    assert "a photo of a anchor." in texts["template"]
    assert "a picture of an anchor" in texts["plain"]
    assert set(texts) == {"template", "plain"}


def test_grocery_says_kind_and_short_sentences() -> None:
    texts = captions(GROCERY)
    assert "a photo of a apple." in texts["coarse"] and "royal gala, a kind of apple" in texts["coarse"]
    assert texts["description"] == ["Royal Gala is sweet and crisp.", "Grown in the south of Sweden!"]
    assert "coarse" not in captions({**GROCERY, "label": "apple"})


def test_clothes_say_who_wears_them() -> None:
    kids = captions({"source": "clothing", "label": "pants", "kids": True})["kind"]
    adults = captions({"source": "clothing", "label": "pants", "kids": False})["kind"]
    assert "pants for a child" in kids and "pants for an adult" in adults
    assert not set(kids) & set(adults)


def test_colours_are_said_once() -> None:
    cup = {"source": "caltech101", "label": "cup"}
    assert captions(cup, ("red", "blue"))["colour"] == [
        *("a red cup", "a photo of a red cup", "a picture of a red cup"),
        *("a red and blue cup", "a photo of a red and blue cup", "a picture of a red and blue cup"),
        "a cup in red and blue",
    ]
    assert "colour" not in captions({"source": "noto", "label": "red heart"}, ("red",))


def test_the_same_generator_draws_the_same_captions() -> None:
    def draw(seed: int) -> list[str]:
        generator = np.random.default_rng(seed)
        return [draw_text(captions(GROCERY, ("red",)), SHARES, generator) for _ in range(200)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    every = {text for texts in captions(GROCERY, ("red",)).values() for text in texts}
    assert set(draw(1)) <= every


def test_the_share_of_the_protocols_templates_is_kept() -> None:
    sample = {"source": "caltech101", "label": "anchor"}
    templates = set(captions(sample)["template"])
    generator = np.random.default_rng(0)
    share = np.mean([draw_text(captions(sample), SHARES, generator) in templates for _ in range(2000)])
    assert share == pytest.approx(SHARES["template"] / (SHARES["template"] + SHARES["plain"]), abs=0.03)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"),
        ((128, 128, 128), "gray"),
        ((235, 235, 235), "white"),
        ((220, 190, 150), "beige"),
        ((110, 70, 35), "brown"),
        ((205, 30, 30), "red"),
        ((240, 130, 20), "orange"),
        ((250, 215, 40), "yellow"),
        ((50, 140, 50), "green"),
        ((150, 200, 240), "light blue"),
        ((30, 80, 200), "blue"),
        ((130, 50, 180), "purple"),
        ((245, 140, 180), "pink"),
    ],
)
def test_colours_have_their_names(rgb: tuple[int, int, int], name: str) -> None:
    image = np.full((3, 40, 60), 255, dtype=np.uint8)
    image[:, 10:30, 15:45] = np.array(rgb, dtype=np.uint8)[:, None, None]
    assert name in COLOURS
    assert colour_words(image, drawn=True) == (name,)
    assert colour_words(image[:, 10:30, 15:45], drawn=False) == (name,)


def test_a_white_background_has_no_colour_and_a_coloured_one_gives_way_to_the_middle() -> None:
    white = np.full((3, 40, 40), 255, dtype=np.uint8)
    assert colour_words(white, drawn=True) == ()
    cut_out = white.copy()
    cut_out[1:, 18:22, 18:22] = 0
    assert colour_words(cut_out, drawn=False) == ("red",)
    scene = np.zeros((3, 40, 40), dtype=np.uint8)
    scene[1] = 130
    scene[:, 10:30, 10:30] = np.array([200, 0, 0], dtype=np.uint8)[:, None, None]
    assert colour_words(scene, drawn=False) == ("red",)
