"""Drawings: rasterised without reading other files, and prepared as shards."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import MediaDecodeError
from perception_encoder.formats.shards import read_shard
from synthetic.builtin.held_out import NEVER_TRAINED
from synthetic.drawings import prepare
from synthetic.drawings.prepare import prepare_source
from synthetic.drawings.rasterize import rasterize
from synthetic.drawings.read import Drawing
from synthetic.drawings.sources import SOURCES, find_source

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


def drawing(key: str, shape: str, label: str = "shape", rank: int = 0) -> Drawing:
    content = svg(shape, "0 0 10 10")
    return Drawing(key=key, svg=content, label=label, tags=("round",), licence="CC0", attribution="A", rank=rank)


CIRCLE = '<circle cx="5" cy="5" r="4" fill="red"/>'
DRAWINGS = [
    drawing("circle", CIRCLE, rank=1),
    drawing("bad", "<circle"),
    drawing("again", CIRCLE),
    drawing("line", '<path d="M0 0L9 9" stroke="blue"/>', label="line"),
]

pytestmark = pytest.mark.usefixtures("warm_pools")


def test_a_source_becomes_a_shard(tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(prepare, "read_source", lambda source, directory: DRAWINGS)
    with caplog.at_level(logging.WARNING):
        made = prepare_source(find_source("openclipart"), tmp_path, side=32, jobs=2)
    assert (made.written, made.duplicates, made.finished_before) == (2, 1, False)
    assert [failure.source for failure in made.failures] == ["openclipart/bad"]
    assert "skipped openclipart/bad" in caplog.text
    assert made.shard == tmp_path / "train" / "openclipart.tar"
    again, line = read_shard(made.shard)
    assert (again.key, line.key) == ("again", "line")  # of the two circles the one of the lower rank
    assert line.metadata == {
        "source": "openclipart",
        "label": "line",
        "tags": ["round"],
        "licence": "CC0",
        "attribution": "A",
    }
    with Image.open(io.BytesIO(again.image)) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
        assert image.getpixel((16, 16)) == (255, 0, 0)


def test_the_unseen_style_stays_out_of_train(tmp_path: Path, monkeypatch) -> None:
    assert {source.name for source in SOURCES if source.split == "train"} == {
        *("noto", "noto_outlined", "noto_line", "twemoji", "twemoji_outlined", "twemoji_line", "openclipart")
    }
    assert {"openmoji"} == NEVER_TRAINED
    monkeypatch.setattr(prepare, "read_source", lambda source, directory: DRAWINGS[2:])
    made = prepare_source(find_source("openmoji"), tmp_path, side=16, jobs=1)
    assert made.shard == tmp_path / "unseen" / "openmoji.tar"
    assert not (tmp_path / "train").exists()
