"""The rule that blends captions with the uploader's text."""

from __future__ import annotations

from experiments.video.blending import Blender

BLENDER = Blender(("lamp", "crate", "dog"))


def test_objects_that_a_caption_lacks_are_added() -> None:
    assert BLENDER.blend("lamp test. With a dog.", "A red lamp falls.") == "A red lamp falls. With a dog."
    assert BLENDER.blend("untitled", "a red lamp") == "a red lamp."


def test_with_frame_captions_two_sources_must_agree() -> None:
    frames = ("a crate and a dog", "a crate and a lamp")
    assert BLENDER.blend("untitled", "A lamp falls.", frames) == "A lamp falls. With a crate."
    assert BLENDER.blend("my dog", "A lamp falls.", frames) == "A lamp falls. With a dog and a crate."
