"""The wording of the built-in model's sources."""

from __future__ import annotations

from perception_encoder.data.captions import (
    captions,
)
from synthetic.builtin.rules import STYLES


def test_drawings_are_called_drawings_and_emoji_emoji() -> None:
    emoji = captions({"source": "noto", "label": "cat face", "tags": ["pet", "cat face", "cat"]}, style=STYLES["noto"])
    clip_art = captions({"source": "openclipart", "label": "cat", "tags": []}, style=STYLES["openclipart"])
    assert "an emoji of a cat face" in emoji["plain"]
    assert emoji["tags"] == ["a cat face, pet", "a cat face, cat", "pet, cat"]
    assert "a drawing of a cat" in clip_art["plain"] and "a drawing of a cat." in clip_art["template"]
    assert not any("emoji" in text for texts in clip_art.values() for text in texts)
    assert "tags" not in clip_art
