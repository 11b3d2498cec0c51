"""Scenes are read from tars, with their masks where they are asked for, and as objects on a background."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.formats.shards import write_members
from synthetic.scenes.samples.reading import read_object_splits, read_rendered_videos, read_scene_tars
from tests.evaluation.layers import png

FILES = [("a.jpg", b"A"), ("a.json", b'{"objects": []}'), ("a.mask.png", b"m"), ("b.json", b"{}"), ("b.jpg", b"B")]


def test_a_scene_is_read_with_its_mask_only_if_asked(tmp_path: Path) -> None:
    tar = tmp_path / "0.tar"
    write_members(tar, [*FILES, ("b.mask.png", b"n")])
    plain = list(read_scene_tars([tar]))
    assert [(item.key, item.image, item.mask) for item in plain] == [("a", b"A", b""), ("b", b"B", b"")]
    assert plain[0].metadata == {"objects": []} and plain[0].where == f"{tar}: a"
    assert [item.mask for item in read_scene_tars([tar, tar], masks=True)] == [b"m", b"n"] * 2


def test_a_scene_without_its_mask_is_named(tmp_path: Path) -> None:
    tar = tmp_path / "0.tar"
    write_members(tar, FILES)
    assert len(list(read_scene_tars([tar]))) == 2
    with pytest.raises(DataError, match=r"1 samples lack an image or a \.json or a \.mask\.png; the first is b"):
        list(read_scene_tars([tar], masks=True))


@pytest.mark.parametrize(("text", "message"), [(b"{", "is not JSON"), (b"[]", "is not a JSON object")])
def test_damaged_json_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    tar = tmp_path / "0.tar"
    write_members(tar, [("a.jpg", b"A"), ("a.json", text)])
    with pytest.raises(DataError, match=rf"0\.tar: a\.json {message}"):
        list(read_scene_tars([tar]))


def test_objects_on_a_background(tmp_path: Path) -> None:
    mask, about = np.array([[0, 7], [3, 3]], np.uint8), {"objects": [{"id": 7}, {"id": 3}]}
    for split in ("train", "test"):
        parts = (("jpg", b"image"), ("mask.png", png(mask)), ("json", json.dumps(about).encode()))
        (tmp_path / split).mkdir()
        write_members(tmp_path / split / "0.tar", [(f"a.{extension}", content) for extension, content in parts])
    train, test = read_object_splits(tmp_path)
    assert train.classes == test.classes == ("background", "object")
    assert test.labels(0).tolist() == [[0, 1], [1, 1]]


def test_rendered_videos_are_cut_into_frames(tmp_path: Path) -> None:
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=4)
        video.width, video.height, video.pix_fmt = 32, 16, "yuv420p"
        for grey in (0, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), grey, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    masks = np.repeat(np.array([1, 2, 3], np.uint8), 16)[:, None].repeat(32, axis=1)
    film = {"a.mp4": stream.getvalue(), "a.mask.png": png(masks), "a.depth.png": b"", "a.json": b"{}"}
    write_members(tmp_path / "00000.tar", [*film.items(), ("b.mp4", b"cut"), ("b.mask.png", png(masks))])
    one, two = read_rendered_videos(tmp_path)
    greys = [np.asarray(one.open(number)).mean() for number in range(3)]
    assert greys == pytest.approx([0, 100, 200], abs=6)
    assert [int(mask.mean()) for mask in one.read_masks()] == [1, 2, 3] and one.read_masks()[0].shape == (16, 32)
    with pytest.raises(MediaDecodeError, match="b/frame 0"):
        two.open(0)
    write_members(tmp_path / "00000.tar", [("a.mp4", stream.getvalue()), ("a.mask.png", png(masks[:40]))])
    with pytest.raises(DataError, match=r"a: masks of \(40, 32\)"):
        read_rendered_videos(tmp_path)
