"""Spatial alignment in small, in the smallest: three alignments, cached results, differences and images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from experiments.findings import spatial_gaps
from experiments.spatial import run
from experiments.spatial.alignments import ALIGNED, CORE, Alignments
from experiments.spatial.run import Sizes, SpatialData, compare, draw_examples, reproduce_spatial
from perception_encoder.formats.shards import write_members
from perception_encoder.layer_analysis.sweep import LayerCurve
from tests.evaluation.layers import discs, png, write_video
from tests.experiments.test_claims import score
from tests.layer_analysis.toys import LightnessTask, named
from tests.spatial_alignment.conftest import scene

SIZES = Sizes(alignments=Alignments(steps=2, batch_size=4, side=64), layers=(8, 11))


@pytest.fixture
def data(tmp_path: Path) -> SpatialData:
    for split in ("train", "test"):
        members = []
        for number in range(6):
            pixels, mask = scene(number)
            members += [
                (f"{number}.png", png(pixels)),
                (f"{number}.mask.png", png(mask)),
                (f"{number}.json", b"{}"),
            ]
        write_members(tmp_path / "scenes" / split / "00000.tar", members)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (70, 60), "red").save(tmp_path / "photos" / "a.png")
    write_video(tmp_path / "clips" / "one.tar", *discs())
    return SpatialData(photos=tmp_path / "photos", scenes=tmp_path / "scenes", clips=tmp_path / "clips")


def test_all_is_run_once_and_drawn(data: SpatialData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = named(LightnessTask(count=12, name="tracking"), LightnessTask(count=12, name="depth", lower=True))
    monkeypatch.setattr(run, "read_tasks", lambda *_: tasks)
    out, runs = tmp_path / "spatial.json", tmp_path / "runs"
    result = reproduce_spatial(out, runs, data, SIZES)
    assert [row["model"] for row in result["curves"][::2]] == [CORE, *ALIGNED]
    assert len(result["differences"]) == 2 * 3 * 2 and json.loads(out.read_text()) == json.loads(json.dumps(result))
    monkeypatch.setattr("experiments.layers.evaluation.run_sweep", lambda *_: pytest.fail("evaluated again"))
    monkeypatch.setattr("experiments.spatial.alignments.align_spatially", lambda *_: pytest.fail("trained again"))
    assert reproduce_spatial(out, runs, data, SIZES) == result
    assert len(spatial_gaps(result)) == len(result["differences"])
    draw_examples(runs, data, tmp_path / "features.png", SIZES)
    with Image.open(tmp_path / "features.png") as image:
        assert image.width == 5 * 206 - 6 and image.height > 400 and len(image.getcolors(1 << 20)) > 50


def test_differences_are_paired_and_errors_count_down() -> None:
    def curve(model: str, values: list[float]) -> LayerCurve:
        scores = {layer: score(value, lower=True) for layer, value in zip((8, 11), values, strict=True)}
        return LayerCurve(model=model, task="depth", metric="RMSE", depth=12, scores=scores)

    curves = {CORE: {"depth": curve(CORE, [0.3, 0.5])}}
    curves |= {name: {"depth": curve(name, [0.4, 0.35])} for name in ALIGNED}
    last, best = compare("depth", curves)[:2]
    assert (last["against"], last["layer"], last["value"]) == ("last", 11, 0.15) and last["standard_error"] < 0.02
    assert (best["against"], best["layer"], best["value"]) == ("best", 8, -0.05)
