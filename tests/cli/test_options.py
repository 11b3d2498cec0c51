"""The shared options: lists, numbers and sizes as they are typed."""

from __future__ import annotations

import pytest

from perception_encoder.cli.options import image_size, items_of, numbers, read_layers
from perception_encoder.errors import ConfigError


def test_what_is_typed_is_read() -> None:
    assert items_of("photo, imagenet") == ["photo", "imagenet"]
    assert numbers("10,2.5") == [10, 2.5]
    assert read_layers("0,5,-1") == [0, 5, -1]
    assert (image_size(None), image_size("518"), image_size("480x640")) == (None, (518, 518), (480, 640))


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (numbers, "10,many", "'10,many' is not a list of numbers separated by commas"),
        (read_layers, "first", "--layer is 'first'; it must be numbers separated by commas, such as 0,5,-1"),
        (image_size, "big", "--size is 'big'; it must be pixels, such as 518, or height x width, such as 480x640"),
    ],
)
def test_errors_give_the_value_and_an_example(read, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(text)
    assert str(error.value) == message
