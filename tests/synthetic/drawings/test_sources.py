"""The sources of the built-in model's drawings."""

from __future__ import annotations

import pytest

from perception_encoder.errors import DataError
from synthetic.drawings.sources import find_source


def test_an_unknown_source_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"noto, twemoji, .*openclipart, openmoji"):
        find_source("emojione")
