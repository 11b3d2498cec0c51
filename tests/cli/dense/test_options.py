"""Positions as they are typed, and a model's layer."""

from __future__ import annotations

import pytest

from perception_encoder.cli.dense import load_layer, read_position
from perception_encoder.errors import ConfigError


def test_positions_are_pixels_or_shares() -> None:
    assert read_position("0.25,1", "--point", 2, (200, 100)) == (0.25, 1)
    assert read_position("50,100", "--point", 2, (200, 100)) == (0.25, 1)
    assert read_position("0,0,200,50", "--box", 4, (200, 100)) == (0, 0, 1, 0.5)


@pytest.mark.parametrize("text", ["", "1", "a,b", "1,2,3"])
def test_other_texts_are_errors(text: str) -> None:
    with pytest.raises(ConfigError, match="it must be X,Y, in pixels or from 0 to 1"):
        read_position(text, "--point", 2, (200, 100))


@pytest.mark.parametrize("text", ["201,5", "-0.1,0.5", "5,101"])
def test_positions_outside_the_image_are_errors(text: str) -> None:
    with pytest.raises(ConfigError, match="not inside the image of 200x100 pixels"):
        read_position(text, "--point", 2, (200, 100))


def test_a_layer_may_be_counted_from_the_end() -> None:
    assert load_layer("random:builtin", -2).layer == 10
