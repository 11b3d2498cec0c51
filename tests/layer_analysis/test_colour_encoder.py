"""Colours alone track a coloured object, and are one layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.layer_analysis.sweep import ColourFeatures, run_sweep
from tests.evaluation.layers import discs, write_video
from tests.layer_analysis.toys import ToyEncoder, plain


def test_colours_alone_are_a_layer(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "one.tar", *discs())
    encoder, store = ColourFeatures(ToyEncoder()), FeatureCache(directory=tmp_path / "store")
    task = TrackingEvaluator(read_videos(tmp_path / "videos"), short_side=48)
    sweep = run_sweep(encoder, [task], store)
    assert sweep.model == "colours" and sweep.curves[0].scores[0].value > 0.7


def test_another_layer_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"layers are \[1\]; colours has only layer 0"):
        ColourFeatures(ToyEncoder()).encode_layers([plain(0)], [1])
