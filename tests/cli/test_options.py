"""The shared options: lists, numbers and sizes as they are typed, and flags that may be left out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from perception_encoder.cli.options import (
    OwnModel,
    argument,
    by_position,
    image_size,
    items_of,
    numbers,
    out_option,
    read_layers,
)
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
        (read_layers, "first", "--layer is 'first'; it must be numbers separated by commas, as 0,5,-1"),
        (image_size, "big", "--size is 'big'; it must be pixels, as 518, or height and width, as 480x640"),
    ],
)
def test_errors_give_the_value_and_an_example(read, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(text)
    assert str(error.value) == message


app = typer.Typer()


@app.command(cls=by_position("model", "out"))
def example(
    source: Annotated[Path, argument("PATH", "An argument of its own.")],
    model: OwnModel,
    out: Annotated[Path, out_option("The output.")],
) -> None:
    print(source, model, out)


@pytest.mark.parametrize(
    "arguments",
    ["s m o", "s m -o o", "s o -m m", "-m m s o", "--model=m s --out=o", "-o o -m m s", "s -o o m", "-mm -- s o"],
)
def test_flags_may_be_left_out(arguments: str) -> None:
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["s", "m", "o"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("s", "--model"),
        ("s m", "--out"),
        ("s -o o", "--model"),
        ("s m o -m n", "unexpected extra argument"),
        ("s m o extra", "unexpected extra argument"),
        ("s m o --quarter", "--quarter"),
    ],
)
def test_a_missing_or_repeated_value_is_a_usage_error(arguments: str, message: str) -> None:
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 2 and message in result.output
