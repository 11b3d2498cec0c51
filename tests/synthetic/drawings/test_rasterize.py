"""SVGs are drawn over white, cut to their ink, centred; bad ones are typed errors; nothing outside is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import MediaDecodeError
from synthetic.drawings.rasterize import rasterize

pytest.importorskip("cairosvg")


def svg(body: str, box: str = "0 0 100 100") -> bytes:
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head} viewBox="{box}">{body}</svg>'.encode()


@pytest.mark.parametrize(
    "bad",
    [b"", b"<svg", b"\x00\xff", b"<html/>", svg(""), svg('<rect width="10" height="10" fill="white"/>')],
)
def test_what_cannot_be_drawn_is_an_error_under_its_name(bad: bytes) -> None:
    with pytest.raises(MediaDecodeError, match=r"^clip/7: "):
        rasterize(bad, 32, "clip/7")


def test_no_file_outside_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (10, 10), "red").save(secret)
    image = f'<image xlink:href="{secret.as_uri()}" width="100" height="100"/>'
    picture = rasterize(svg(image + '<rect width="50" height="100" fill="blue"/>'), 32, "x")
    colours = {colour for _, colour in picture.getcolors(maxcolors=2000) or []}
    assert (255, 0, 0) not in colours


def test_entities_are_refused() -> None:
    text = b'<!DOCTYPE svg [<!ENTITY a "b">]>' + svg("<text>&a;</text>")
    with pytest.raises(MediaDecodeError, match="Entities"):
        rasterize(text, 32, "x")
