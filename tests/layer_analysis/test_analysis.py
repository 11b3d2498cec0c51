"""A whole analysis: what cannot do fails before hours are spent, and what cannot be looked into costs no report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, OutputError
from perception_encoder.inference.layer_encoder import TowerEncoder
from perception_encoder.inference.open_model import load_layer_encoder
from perception_encoder.layer_analysis import store
from perception_encoder.layer_analysis.analysis import analyse
from perception_encoder.layer_analysis.inside import PICTURES, look_inside
from perception_encoder.layer_analysis.report import write_report
from perception_encoder.layer_analysis.store import StoreConfig
from perception_encoder.layer_analysis.tasks import SizedTask
from perception_encoder.models.tower import OwnTower
from tests.layer_analysis.test_global_tokens import DEPTH, tower
from tests.layer_analysis.toys import LightnessTask

WIDE = Image.new("RGB", (60, 30), (200, 100, 50))


def changed(name: str = "built", **changes: object) -> TowerEncoder:
    return TowerEncoder(name, replace(tower(3).tower, **changes), "cpu", torch.float32)


def loader(*encoders: TowerEncoder) -> Callable[[str], TowerEncoder]:
    return {encoder.name: encoder for encoder in encoders}.__getitem__


def test_what_a_model_lacks_is_said_before_the_first_sweep(tmp_path: Path) -> None:
    config, task = StoreConfig(folder=tmp_path / "store"), LightnessTask()
    load = loader(changed(), changed("shallow", depth=2), changed("fixed", fixed_size=True))
    with pytest.raises(ConfigError, match="layer 5 does not exist; shallow has layers 0 to 1"):
        analyse(["built", "shallow"], [task], config, [5], load)
    with pytest.raises(ConfigError, match="fixed takes images of 24x24 only, not 12x24"):
        analyse(["built", "fixed"], [SizedTask(task, (12, 24))], config, None, load)
    with pytest.raises(ConfigError, match="two models are called built"):
        analyse(["built", "built"], [task], config, None, load)
    assert task.measured == [] and not config.folder.exists()


def test_the_disk_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, task, said = StoreConfig(folder=tmp_path / "store"), LightnessTask(), []
    with monkeypatch.context() as patched:
        patched.setattr(store, "SPARE", 1 << 62)
        with pytest.raises(OutputError, match="for features and the disk has"):
            analyse(["built"], [task], config, None, loader(changed()), announce=said.append)
    assert task.measured == [] and said == [f"features will take 0.0 MB more in {config.folder}"]
    for _ in range(2):
        analyse(["built"], [task], config, None, loader(changed()), announce=said.append)
    assert len(said) == 2  # the second time they are there


def test_a_model_of_one_size_is_looked_into_at_that_size(tmp_path: Path) -> None:
    encoder = changed(fixed_size=True)
    assert look_inside(encoder, WIDE).grid == (6, 6) and look_inside(changed(), WIDE).grid == (3, 6)
    with pytest.raises(ConfigError, match="takes images of 24x24 only"):
        look_inside(encoder, WIDE, patches=4)
    for task in (LightnessTask(), SizedTask(LightnessTask(), (24, 24))):
        report = analyse(["built"], [task], StoreConfig(folder=tmp_path), None, loader(encoder))
        assert report.notes == () and report.insides[0].grid == (6, 6)


def test_a_timm_model_of_one_size_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model
    small = {"depth": 2, "embed_dim": 32, "num_heads": 2}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **small, **given))
    encoder = load_layer_encoder("random:timm:beit_base_patch16_224", "cpu", torch.float32)
    assert encoder.tower.fixed_size and encoder.tower.class_token and look_inside(encoder, WIDE).grid == (14, 14)


def silent() -> TowerEncoder:
    """A model that does not attend through torch."""

    class SilentTower(OwnTower):
        def run(self, pixels: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
            return [pixels.flatten(1)[:, :144].unflatten(1, (36, 4))] * len(layers)

    return TowerEncoder("silent", SilentTower(**vars(tower(3).tower)), "cpu", torch.float32)


def test_a_model_that_cannot_be_looked_into_has_its_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = analyse(
        ["silent", "built"], [LightnessTask()], StoreConfig(folder=tmp_path), None, loader(silent(), changed())
    )
    assert [sweep.model for sweep in report.sweeps] == ["silent", "built"] and list(report.statistics) == ["built"]
    note = "silent could not be looked into: silent does not attend through torch in every layer, so it cannot be seen"
    assert report.notes == (note,) and report.insides == ()
    page, _, _, data = write_report(report, tmp_path / "out")
    assert note in page.read_text(encoding="utf-8")
    assert json.loads(data.read_text(encoding="utf-8"))["notes"] == [note]


def test_pictures_that_cannot_be_shown_cost_no_report(tmp_path: Path) -> None:
    count = 2 * PICTURES + 2
    task = LightnessTask(count=count, broken=tuple(range(0, count, 2)))  # every picture of the sample
    report = analyse(["built"], [task], StoreConfig(folder=tmp_path), None, loader(changed()))
    assert len(report.curves[0].scores) == DEPTH and len(report.notes) == 1
    assert "greys: none of the pictures that were to be shown can be decoded" in report.notes[0]
    with pytest.raises(DataError, match="no images were given, so there is no attention to show"):
        changed().attention([], [0])
