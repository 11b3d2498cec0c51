"""Predictions of heads from Python: inputs, results, and files that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.dense_prediction.heads import list_inputs
from perception_encoder.errors import ConfigError, DataError, InputError
from tests.clips import of_two_sizes


def test_names_are_relative_to_the_directory_that_all_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.png", "a/y.jpg", "a/y.png", "b/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    def names(*paths: Path) -> list[tuple[str, str]]:
        return [(item.name, item.out) for item in list_inputs(paths)]

    assert names(tmp_path / "a") == [("x.png", "x"), ("y.jpg", "y.jpg"), ("y.png", "y.png")]
    assert names(tmp_path / "a" / "x.png") == [("x.png", "x")]
    both = [("a/x.png", "a/x"), ("a/y.jpg", "a/y.jpg"), ("a/y.png", "a/y.png"), ("b/x.png", "b/x")]
    assert (
        names(tmp_path / "a", tmp_path / "b") == names(tmp_path / "a", tmp_path / "a" / "x.png", tmp_path / "b") == both
    )
    monkeypatch.chdir(tmp_path / "a")
    assert names(Path("x.png"), Path("../b/x.png")) == [("a/x.png", "a/x"), ("b/x.png", "b/x")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images or videos in "):
        list_inputs([tmp_path / "empty"])


def test_no_two_files_are_written_to_one_place(tmp_path: Path) -> None:
    for name in ("y.jpg", "y.png", "y.jpg.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert {item.name: item.out for item in list_inputs([tmp_path])} == {
        name: name for name in ("y.jpg", "y.png", "y.jpg.png")
    }


def test_files_that_cannot_be_read(depth_head: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "clip.h264").write_bytes(of_two_sizes((96, 64), (64, 48)))
    files = [tmp_path / name for name in ("good.png", "bad.mp4", "missing.png", "clip.h264")]
    skipped: list[InputError] = []
    found = list(pe.depth(files, tmp_path / "out", head=depth_head, skipped=skipped))
    assert [item.name for item in found] == ["good.png", *(f"clip.h264/0000{number}" for number in range(4))]
    assert len(skipped) == 3 and str(skipped[-1]) == "clip.h264: frame 4 has 64x48 pixels, the first frame 96x64"
    assert (tmp_path / "out" / "good.png").is_file() and not (tmp_path / "out" / "clip.mp4").exists()
    with pytest.raises(InputError, match=r"bad\.mp4"):
        list(pe.depth(files, head=depth_head))


def test_results_of_images_in_memory(depth_head: Path, detector: Path, segmenter: Path) -> None:
    image = Image.linear_gradient("L").convert("RGB").resize((60, 40))
    head = pe.load_head(depth_head)
    depth, same = head.predict([image, np.asarray(image)])
    assert (depth.name, same.name, depth.depth.shape) == ("00000", "00001", (40, 60))
    assert np.array_equal(depth.depth, same.depth) and depth.draw().size == (60, 40)
    assert depth.to_dict()["unit"] == "m" and depth.to_dict()["nearest"] <= depth.to_dict()["farthest"]
    (found,) = pe.detect(image, head=detector, score=0.0)
    assert json.loads(json.dumps(found.to_dict()))["objects"][0]["class"] in ("red", "blue")
    classes = pe.segment(image, head=segmenter)
    assert classes.labels.shape == (40, 60) and classes.to_dict()["head"] == str(segmenter)
    with pytest.raises(ConfigError, match="is a head for depth, not for detection"):
        pe.detect(image, head=head)


def test_tracking_from_python(tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.full((64, 96, 3), (20, 120, 30), np.uint8)
        pixels[16:48, 8 + 6 * number : 40 + 6 * number] = (220, 30, 30)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    frames = list(pe.track(tmp_path, boxes=[(4, 12, 44, 52)], short_side=128))
    assert [frame.name for frame in frames] == ["0", "1", "2"]
    assert frames[2].objects[0].bbox[0] > frames[0].objects[0].bbox[0]
    again = list(pe.track(tmp_path, mask=frames[0].labels, short_side=128))
    assert np.array_equal(again[2].labels, frames[2].labels)
