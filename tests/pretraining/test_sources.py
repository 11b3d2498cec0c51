"""Sources of a run: weights of directories, tables and shards, and their held-out parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.data.pairs import alone
from perception_encoder.pretraining import run
from perception_encoder.pretraining.builtin.recipe import debug
from perception_encoder.pretraining.sources import open_sources
from perception_encoder.progress import untracked
from perception_encoder.ranks import ALONE


def test_one_s_own_images_count_by_their_number_beside_the_weights(photos: Path, tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / "mine" / f"c{number}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (9 * number, 0, 0)).save(path)
    (tmp_path / "words.csv").write_text("path,caption\nmine/c1/a.png,dark red\n")
    config = dataclasses.replace(debug(), weights={"flowers": 2.0, "noto": 1.0})

    def shares(*data: Path) -> dict[str, float]:
        sources = open_sources(config, data, run.build_model(config), ALONE, alone, untracked)
        return dict(zip(sources.samples, sources.weights, strict=True))

    mine, words = tmp_path / "mine", tmp_path / "words.csv"
    assert shares(photos) == {"flowers": 2.0}  # 20 pictures; Caltech-101's have no weight
    assert shares(photos, mine, words) == {"flowers": 2.0, "mine": pytest.approx(0.5), "words": pytest.approx(0.1)}
    assert shares(mine, words) == {"mine": 5.0, "words": 1.0}
