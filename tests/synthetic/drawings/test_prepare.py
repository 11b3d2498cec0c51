"""Preparing a source: drawn, counted, resumable; clear errors where a registry's client is missing or fails."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.formats.shards import read_shard
from synthetic.builtin.held_out import NEVER_TRAINED
from synthetic.drawings import prepare
from synthetic.drawings.prepare import drop_near_duplicates, prepare_source
from synthetic.drawings.read import Drawing
from synthetic.drawings.sources import SOURCES, find_source

pytest.importorskip("cairosvg")


def drawing(key: str, shape: str, label: str = "shape", rank: int = 0) -> Drawing:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">{shape}</svg>'
    return Drawing(key=key, svg=svg.encode(), label=label, tags=("round",), licence="CC0", attribution="A", rank=rank)


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


def test_a_finished_source_is_not_done_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prepare, "read_source", lambda source, directory: pytest.fail("fetched again"))
    shard = tmp_path / "train" / "noto.tar"
    shard.parent.mkdir()
    shard.write_bytes(b"done")
    made = prepare_source(find_source("noto"), tmp_path)
    assert made.finished_before and made.shard.read_bytes() == b"done"


def test_the_unseen_style_stays_out_of_train(tmp_path: Path, monkeypatch) -> None:
    assert {source.name for source in SOURCES if source.split == "train"} == {
        *("noto", "noto_outlined", "noto_line", "twemoji", "twemoji_outlined", "twemoji_line", "openclipart")
    }
    assert {"openmoji"} == NEVER_TRAINED
    monkeypatch.setattr(prepare, "read_source", lambda source, directory: DRAWINGS[2:])
    made = prepare_source(find_source("openmoji"), tmp_path, side=16, jobs=1)
    assert made.shard == tmp_path / "unseen" / "openmoji.tar"
    assert not (tmp_path / "train").exists()


def png(shade: int) -> bytes:
    pixels = np.full((32, 32, 3), 255, dtype=np.uint8)
    pixels[8:24, 8:24] = shade
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_different_labels_need_a_closer_look_to_be_duplicates() -> None:
    def kept(shade: int, label: str) -> int:
        pair = [(drawing("a", CIRCLE, "cat"), png(0)), (drawing("b", CIRCLE, label), png(shade))]
        return len(drop_near_duplicates(pair))

    assert [kept(shade, "cat") for shade in (5, 35, 90)] == [1, 1, 2]
    assert [kept(shade, "dog") for shade in (5, 35, 90)] == [1, 2, 2]
    assert drop_near_duplicates([]) == []
