"""Clips with the texts of a simulated uploader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from experiments.video.clips import upload_text, write_clips
from synthetic.video_dataset.truth import SceneTruth
from tests.experiments.video.test_run import video
from tests.video_dataset.clips import short_clip, write_dataset

TRUTH = SceneTruth((("lamp", "red"), ("crate", ""), ("dog", "")), (("lamp", "falls"),), False)


def test_texts_say_some_of_what_is_there_and_often_nothing() -> None:
    texts = [" ".join(upload_text(TRUTH, np.random.default_rng(seed))) for seed in range(400)]
    names = ("lamp", "crate", "dog")
    share = sum(any(name in text for name in names) for text in texts) / len(texts)
    assert 0.7 < share < 0.9
    assert 0.03 < sum("lamp falls" in text for text in texts) / len(texts) < 0.15
    assert sum(all(name in text for name in names) for text in texts) / len(texts) < 0.5
    assert upload_text(TRUTH, np.random.default_rng(3)) == upload_text(TRUTH, np.random.default_rng(3))


def test_each_clip_has_its_text_beside_it(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", {"train": [[video(0), video(1)]]})
    clips = write_clips(dataset, "train", tmp_path / "clips")
    for clip in clips:
        assert clip.path.read_bytes() == short_clip()
        beside = json.loads(clip.path.with_suffix(".json").read_text())
        assert beside == {"title": clip.title, "description": clip.description}
    assert write_clips(dataset, "train", tmp_path / "clips") == clips
