"""Small shards of made-up pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.formats.shards import ShardSample, write_shard

MakeShard = Callable[..., Path]


@pytest.fixture
def make_shard(tmp_path: Path) -> MakeShard:
    """`make_shard("photos/train.tar", [("caltech101", "cup"), …], size=(w, h))` writes a shard of red pictures."""

    def make(name: str, rows: list[tuple[str, str]], size: tuple[int, int] = (30, 20), **extra: object) -> Path:
        stream = io.BytesIO()
        Image.new("RGB", size, (200, 0, 0)).save(stream, "PNG")
        samples = [
            ShardSample(f"{source}-{i}", "png", stream.getvalue(), {"source": source, "label": label, **extra})
            for i, (source, label) in enumerate(rows)
        ]
        write_shard(tmp_path / name, samples)
        return tmp_path / name

    return make
