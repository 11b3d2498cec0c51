"""Tasks of places, on the very features that their evaluators take by themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perception_encoder.data.masked_videos import read_videos
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.evaluation.colour_encoder import ColourEncoder
from perception_encoder.evaluation.tracking import TrackingConfig, measure_tracking
from perception_encoder.layer_analysis.dense_tasks import TrackingTask
from perception_encoder.layer_analysis.store import StoreConfig
from perception_encoder.layer_analysis.sweep import run_sweep
from tests.evaluation.layers import discs, write_video
from tests.layer_analysis.toys import CLEAR, ToyEncoder

CONFIG = TrackingConfig(short_side=48)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    pictures, masks = discs()
    for name in ("one", "two"):
        write_video(tmp_path / "videos" / f"{name}.tar", pictures, masks)
    return tmp_path / "videos"


def test_tracking_over_layers_is_that_of_the_evaluator(videos: Path, tmp_path: Path) -> None:
    task, encoder = TrackingTask(read_videos(videos), CONFIG), ToyEncoder()
    found = run_sweep(encoder, [task], StoreConfig(folder=tmp_path / "store", dtype="float32"))
    assert [curve.figure for curve in found.curves] == ["J&F", "J", "F"] and found.curves[0].pool == "tokens"
    assert found.curves[0].best == CLEAR and found.pictures == 12
    for layer in (0, CLEAR):
        wanted, _ = measure_tracking(encoder, layer, read_videos(videos), CONFIG)
        values = [curve.scores[layer].value for curve in found.curves]
        assert values == pytest.approx([metric.value for metric in wanted.metrics], abs=1e-6)


def test_colours_alone_are_a_layer(videos: Path, tmp_path: Path) -> None:
    encoder, store = ColourEncoder(ToyEncoder()), StoreConfig(folder=tmp_path / "store")
    found = run_sweep(encoder, [TrackingTask(read_videos(videos), CONFIG)], store)
    assert found.model == "colours" and found.curves[0].scores[0].value > 0.7


def test_a_video_that_cannot_be_decoded_whole_is_left_out_and_said(videos: Path, tmp_path: Path) -> None:
    one, two = read_videos(videos)
    bad_frame = replace(one, frames=(one.frames[0], b"cut", *one.frames[2:]))
    task = TrackingTask([bad_frame, two], CONFIG)
    found = run_sweep(ToyEncoder(), [task], StoreConfig(folder=tmp_path / "store"), [CLEAR])
    assert found.curves[0].scores[CLEAR].n == 1 and [f.source for f in found.failures] == ["one/frame 1"]
    bad_mask = replace(two, masks=(two.masks[0], b"cut", *two.masks[2:]))
    task = TrackingTask([one, bad_mask], CONFIG)
    found = run_sweep(ToyEncoder(), [task], StoreConfig(folder=tmp_path / "store"), [CLEAR])
    assert found.curves[0].scores[CLEAR].n == 1 and [f.source for f in found.failures] == ["two/mask 1"]
    assert isinstance(found.failures[0], MediaDecodeError)
    neither = TrackingTask([replace(one, frames=(b"cut",) * len(one.frames))], CONFIG)
    with pytest.raises(DataError, match="no video can be decoded whole"):
        run_sweep(ToyEncoder(), [neither], StoreConfig(folder=tmp_path / "store"), [CLEAR])
