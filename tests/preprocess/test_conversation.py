"""Messages, and placeholders of images in texts."""

from __future__ import annotations

import pytest
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.conversation import Message, Sampling, ask, split_at_placeholders

RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


def test_media_come_before_the_question() -> None:
    system, user = ask("what is it?", [RED, BLUE], system="be brief")
    assert system == Message("system", ("be brief",))
    assert user.content == (RED, BLUE, "what is it?")
    assert user.media == [RED, BLUE]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("left <image> right <image>?", ("left ", RED, " right ", BLUE, "?")),
        ("<image><video>", (RED, BLUE)),
        ("both?", (RED, BLUE, "both?")),
        ("", (RED, BLUE)),
    ],
)
def test_media_take_the_places_of_placeholders(text: str, parts: tuple[object, ...]) -> None:
    assert split_at_placeholders(text, [RED, BLUE]) == parts


@pytest.mark.parametrize("text", ["<image>", "<image><image><image>"])
def test_a_wrong_number_of_placeholders_is_an_error(text: str) -> None:
    count = text.count("<image>")
    with pytest.raises(ConfigError, match=rf"{count} placeholders \(<image>, <video>\) for 2 images and videos"):
        split_at_placeholders(text, [RED, BLUE])


def test_only_the_user_shows_images() -> None:
    with pytest.raises(ConfigError, match="a message of the assistant holds an image"):
        Message("assistant", (RED,))
    with pytest.raises(ConfigError, match="role is 'bot'; it must be one of system, user, assistant"):
        Message("bot", ("hi",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"), [("max_tokens", 0), ("temperature", -0.1), ("temperature", 2.1), ("top_p", 0), ("top_p", 1.1)]
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field} is {value}; it must be"):
        Sampling(**{field: value})
