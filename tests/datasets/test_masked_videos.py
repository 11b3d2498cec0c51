"""Videos with masks: DAVIS's layout, tars, directories, kinds of masks, and what is wrong with them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.datasets.masked_videos import MaskedVideo, read_object_mask, read_videos
from perception_encoder.errors import DataError, InputError, MediaDecodeError
from tests.data.tars import write_file


def stored(pixels: np.ndarray, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if mode == "P":
        image = Image.fromarray(pixels, "L").convert("P")
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 0)])
        image.putdata(pixels.ravel().tolist())
    elif mode:
        image = image.convert(mode)
    image.save(stream, "PNG")
    return stream.getvalue()


MASK = np.array([[0, 1], [2, 255]], np.uint8)
PICTURE = np.zeros((2, 2, 3), np.uint8)


def write(directory: Path, count: int = 3, masks: int = 3) -> None:
    for index in range(count):
        write_file(directory / f"{index:05}.jpg", stored(PICTURE))
        if index < masks:
            write_file(directory / f"{index:05}.png", stored(MASK))


def test_davis_directories_list_their_validation_set(tmp_path: Path) -> None:
    for name in ("bear", "dog", "cow"):
        for kind, suffix, pixels in (("JPEGImages", "jpg", PICTURE), ("Annotations", "png", MASK)):
            for index in range(2):
                write_file(tmp_path / kind / "480p" / name / f"{index:05}.{suffix}", stored(pixels))
    assert [video.name for video in read_videos(tmp_path)] == ["bear", "cow", "dog"]
    write_file(tmp_path / "ImageSets" / "2017" / "val.txt", b"dog\nbear\n")
    videos = read_videos(tmp_path)
    assert [video.name for video in videos] == ["bear", "dog"]
    assert [mask.tolist() for mask in videos[0].read_masks()] == [MASK.tolist()] * 2
    assert videos[0].open(1).mode == "RGB"


def test_directories_and_masks_of_some_frames(tmp_path: Path) -> None:
    write(tmp_path / "clip", masks=2)
    (video,) = read_videos(tmp_path)
    assert video.name == "clip" and [mask is None for mask in video.read_masks()] == [False, False, True]


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Without zeros before the numbers, the tenth frame came before the second."""
    (tmp_path / "clip").mkdir()
    for number in range(1, 12):
        (tmp_path / "clip" / f"frame{number}.jpg").write_bytes(stored(np.full((2, 2, 3), number, np.uint8)))
    (tmp_path / "clip" / "frame1.png").write_bytes(stored(MASK))
    (video,) = read_videos(tmp_path)
    assert [video.open(index).getpixel((0, 0))[0] for index in range(11)] == list(range(1, 12))


def test_kinds_of_masks() -> None:
    assert read_object_mask(stored(MASK, "P"), "m").tolist() == MASK.tolist()
    assert read_object_mask(stored(np.array([[0, 255]], np.uint8)), "m").tolist() == [[0, 1]]
    assert read_object_mask(stored(np.array([[0, 255]], np.uint8), "1"), "m").tolist() == [[0, 1]]
    with pytest.raises(MediaDecodeError, match="m: has the mode RGB"):
        read_object_mask(stored(PICTURE), "m")
    with pytest.raises(MediaDecodeError, match="m: cannot be decoded"):
        read_object_mask(b"\x89PNG", "m")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no JPEGImages, no NAME\.tar"):
        read_videos(tmp_path)
    write(tmp_path / "short", count=1)
    with pytest.raises(DataError, match="short: has 1 frames"):
        read_videos(tmp_path)
    write(tmp_path / "more" / "blind", masks=0)
    with pytest.raises(DataError, match="blind: the first frame, 00000"):
        read_videos(tmp_path / "more")
    with pytest.raises(InputError, match=r"sizes: mask 1 is \(3, 2\)"):
        MaskedVideo("sizes", (b"", b""), (stored(MASK), stored(np.ones((3, 2), np.uint8)))).read_masks()


def test_davis_clips(real_data: Path) -> None:
    videos = {video.name: video for video in read_videos(real_data / "davis")}
    assert len(videos["cows"].frames) == 104 and len(videos) == 5
    masks = videos["dog"].read_masks()
    assert masks[0].shape == (240, 427) and set(np.unique(masks[0])) == {0, 1}
