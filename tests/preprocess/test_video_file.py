"""Containers that are opened, and files that are not videos."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import InputError, MediaDecodeError, MediaTooLargeError, OutputError
from perception_encoder.preprocess import budget, video_file
from perception_encoder.preprocess.video import read_frames, sample_frames
from perception_encoder.preprocess.video_file import FrameImages, write_video
from tests.clips import clip


@pytest.mark.parametrize(
    "data",
    [
        b"no video at all, only words" * 9,
        clip()[:-200],  # the index of a plain mp4 stands at its end
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/hostname\n",
    ],
    ids=["words", "cut", "header", "playlist", "concat"],
)
def test_what_is_no_video(data: bytes) -> None:
    with pytest.raises(MediaDecodeError, match=r"clip\.mp4: (is not a video|holds no)"):
        read_frames(data, "clip.mp4")


def test_frames_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (budget, video_file):
        monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    with pytest.raises(MediaTooLargeError, match="has frames of 8,192 pixels"):
        read_frames(clip(3))


class Disk(io.BytesIO):
    """A file on a disk, where no file can be so long."""

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and not 0 <= offset < 1 << 40:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return super().seek(offset, whence)


def test_a_video_that_points_beyond_every_file_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """PyAV prints the traceback of a second error of a stream, and raises the first."""
    whole = clip(12, "asf")
    decoded = set()
    for at in range(24, 400, 8):
        damaged = whole[:at] + b"\x7f" * 8 + whole[at + 8 :]
        try:
            decoded.add(len(read_frames(Disk(damaged), "clip", 2).images))
        except InputError as error:
            assert str(error).startswith("clip: ") and "Errno" not in str(error) and "\n" not in str(error)
            decoded.add(0)
    assert decoded == {0, 2}
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("side", [None, 24])
def test_frames_of_changing_sizes_and_formats_are_converted_as_each_alone(side: int | None) -> None:
    noise, images = np.random.default_rng(0), FrameImages("clip.mp4", side)
    kinds = [
        (64, 48, "yuv420p"),
        (96, 128, "yuv420p"),
        (64, 48, "yuv444p"),
        (64, 48, "yuv420p10le"),
        (64, 48, "yuv420p"),
    ]
    for width, height, format in kinds:
        pixels = noise.integers(0, 256, (height, width, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels).reformat(format=format)
        scaled = frame
        if side is not None:
            scale = side / min(width, height)
            size = {"width": round(width * scale), "height": round(height * scale)}
            scaled = frame.reformat(**size, interpolation="AREA")
        assert np.array_equal(np.asarray(images.convert(frame)), np.asarray(scaled.to_image()))


@pytest.mark.parametrize("format", ["yuv420p", "yuvj420p", "yuv420p10le", "nv12", "yuv422p", "pal8", "rgb24", "gray"])
def test_reduced_frames_have_the_colours_of_whole_ones(format: str) -> None:
    red, blue = np.meshgrid(np.linspace(0, 255, 256), np.linspace(0, 255, 192))
    smooth = np.stack([red, (red + blue) / 2, blue], axis=-1).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(smooth, format="rgb24")
    if format == "pal8":
        frame = av.VideoFrame.from_ndarray(smooth[..., 0] // 2, format="gray8")
    elif format != "rgb24":
        frame = frame.reformat(format=format)
    whole = FrameImages("clip.mp4").convert(frame).resize((64, 48), Image.Resampling.BOX)
    difference = np.asarray(FrameImages("clip.mp4", 48).convert(frame), float) - np.asarray(whole, float)
    assert np.abs(difference.mean(axis=(0, 1))).max() < 0.7


def test_frames_come_back(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with write_video(path, (65, 48), 12.5) as add:
        for level in (0, 100, 200):
            add(Image.new("RGB", (65, 48), (level, level, level)))
        add(np.full((48, 65, 3), 250, np.uint8))
        assert not path.exists()
    video = read_frames(path, frames=4)
    assert video.images[0].size == (64, 48)
    assert [np.asarray(image).mean().round() for image in video.images] == pytest.approx([0, 100, 200, 250], abs=4)
    assert [frame.time for frame in sample_frames(path, every=0)] == pytest.approx([0, 0.08, 0.16, 0.24], abs=1e-3)


def test_nothing_is_left_of_a_video_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), write_video(tmp_path / "a.mp4", (32, 32), 8) as add:
        add(Image.new("RGB", (32, 32)))
        raise ValueError("stop")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="could not be written"),
        write_video(tmp_path / "file" / "a.mp4", (32, 32), 8),
    ):
        pass
