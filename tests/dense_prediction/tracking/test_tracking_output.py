"""A tracked video's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.dense_prediction.tracking.tracking_output import describe_objects, write_tracking
from perception_encoder.errors import InputError, OutputError
from perception_encoder.preprocess.video import read_frames


def labels() -> np.ndarray:
    values = np.zeros((32, 48), int)
    values[4:10, 6:20], values[12:, 40:] = 1, 7
    return values


def test_objects_are_described_by_boxes_and_areas() -> None:
    assert describe_objects(labels()) == [
        {"id": 1, "bbox": [6, 4, 14, 6], "area": 84},
        {"id": 7, "bbox": [40, 12, 8, 20], "area": 160},
    ]
    assert describe_objects(np.zeros((4, 4), int)) == []


def test_masks_overlay_and_boxes(tmp_path: Path) -> None:
    frame = Image.new("RGB", (48, 32), (200, 200, 200))
    tracked = [(frame, labels()), (frame, np.zeros_like(labels()))]
    value = write_tracking(iter(tracked), tmp_path, "clip", 5, {"model": "m"})
    assert json.loads((tmp_path / "clip.json").read_text()) == value
    assert value["model"] == "m" and [each["name"] for each in value["frames"]] == ["00000", "00001"]
    assert value["frames"][1]["objects"] == []
    assert np.array_equal(np.asarray(Image.open(tmp_path / "clip" / "00000.png")), labels())
    drawn = np.asarray(read_frames(tmp_path / "clip.mp4", frames=2).images[0]).astype(int)
    assert drawn[7, 13, 0] > drawn[7, 13, 1] + 20 and abs(drawn[28, 5] - 200).max() < 12
    with pytest.raises(OutputError, match="has masks already"):
        write_tracking(iter(tracked), tmp_path, "clip", 5, {})


def test_masks_of_a_video_that_fails_later_stay(tmp_path: Path) -> None:
    def frames():
        yield Image.new("RGB", (48, 32)), labels()
        raise InputError("frame 1", "is damaged")

    with pytest.raises(InputError, match="damaged"):
        write_tracking(frames(), tmp_path, "clip", 5, {})
    assert [path.name for path in tmp_path.iterdir()] == ["clip"] and (tmp_path / "clip" / "00000.png").is_file()
