"""The options of the language commands: pages, and the model with how its media are opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli.language import load_generator, read_pages
from perception_encoder.errors import ConfigError


def test_pages() -> None:
    assert [read_pages(text) for text in (None, "2", "1-3,7", "7, 1-2")] == [None, (2,), (1, 2, 3, 7), (7, 1, 2)]


@pytest.mark.parametrize("text", ["", "0", "3-1", "a", "1-", "-2", "1,,2", "9999999"])
def test_other_pages_are_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="--pages is"):
        read_pages(text)


def test_media_are_opened_as_the_model_cuts_them(language_run: Path) -> None:
    generator, media = load_generator(str(language_run), 2, 5, (1,), True, 1.0, 2.0)
    assert (media.tile, media.tiles) == (generator.media.image_size, generator.media.tiles) == (64, 2)
    assert (media.frames, media.pages, media.start, media.end) == (5, (1,), 1.0, 2.0)
    assert media.limits is not None and media.limits.allow_private
