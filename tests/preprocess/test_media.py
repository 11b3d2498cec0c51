"""What an input is goes by its content; opening it ends in an image, frames, a text or a typed error."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import (
    InputError,
    MediaDecodeError,
    MediaNotFoundError,
    UrlRefusedError,
)
from perception_encoder.preprocess import media as module
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.image import image_file
from perception_encoder.preprocess.media import HEAD, MEDIA_SUFFIXES, Media, open_media, resolve, sniff
from tests.clips import clip, number_of
from tests.damage import spoilt


def image_bytes(format: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    return image_file(Image.new("RGB", size, "teal"), format)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an image and a video under their own suffix and under each other's."""
    for name, data in {
        "a.jpg": image_bytes(),
        "picture.mp4": image_bytes("PNG"),
        "clip.mp4": clip(50),
        "video.jpg": clip(50),
        "picture": image_bytes(),
        "notes.txt": b"only words",
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("a.jpg", "image"),
        (Path("a.jpg"), "image"),
        ("picture.mp4", "image"),
        ("picture", "image"),
        ("clip.mp4", "video"),
        (Path("video.jpg"), "video"),
        ("./a.jpg", "image"),
    ],
)
def test_files_go_by_their_content(value: str | Path, kind: str, folder: Path) -> None:
    media = resolve(value)
    assert (media.kind, media.name, media.payload) == (kind, str(value), Path(value))
    assert isinstance(open_media(media), Image.Image if kind == "image" else VideoFrames)


TEXTS = ["a dog", "", "A photo of a.jpg in a frame", "a.jpg b", "two\nlines", "zero\0byte", "x" * 5000, "e.g.", "~"]
TEXTS += ["inside", "inside@2s"]  # a directory


@pytest.mark.parametrize("text", [*TEXTS, "meet at 5@12s", "1.5", "see https://example.com/a.jpg for more", "café"])
def test_other_strings_are_texts(text: str, folder: Path) -> None:
    media = resolve(text)
    assert (media.kind, media.payload) == ("text", text)
    assert open_media(media) == text
    assert len(media.name) <= 62 and "\n" not in media.name


@pytest.mark.parametrize("name", ["missing.jpg", "no/such/CLIP.MP4", "how to open a file.png", "missing.mp4@2s-5s"])
def test_a_string_with_a_media_suffix_must_exist(name: str, folder: Path) -> None:
    with pytest.raises(MediaNotFoundError, match="no such file"):
        resolve(name)


def test_a_file_that_is_no_media(folder: Path) -> None:
    for value in ("notes.txt", Path("notes.txt"), b"only words"):
        with pytest.raises(MediaDecodeError, match="is neither an image nor a video"):
            resolve(value)
    for value, kind in ((Path("inside"), None), ("inside", "image"), ("inside/album.jpg", None)):
        (folder / "inside/album.jpg").mkdir(exist_ok=True)
        with pytest.raises(MediaDecodeError, match=f"{value}: is a directory"):
            resolve(value, kind=kind)


def test_the_kind_may_be_said_outright(folder: Path) -> None:
    assert resolve("a.jpg", kind="text") == Media("text", "a.jpg", "a.jpg")
    with pytest.raises(MediaNotFoundError, match="a dog: no such file"):
        resolve("a dog", kind="image")
    with pytest.raises(MediaDecodeError, match=r"clip\.mp4: is not an image"):
        open_media(resolve("clip.mp4", kind="image"))
    with pytest.raises(MediaDecodeError, match=r"a\.jpg: is not a video"):
        open_media(resolve("a.jpg", kind="video"))
    with pytest.raises(InputError, match="is an image, not a video"):
        resolve(Image.new("RGB", (4, 4)), kind="video")
    with pytest.raises(InputError, match="is of type int; give a string"):
        resolve(3, kind="text")


def test_urls_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fetch", lambda url, limits: image_bytes())
    media = resolve("https://example.com/cat")
    assert (media.kind, media.name) == ("image", "https://example.com/cat")
    assert open_media(media).size == (40, 30)
    monkeypatch.undo()
    with pytest.raises(UrlRefusedError):
        resolve("file:///etc/passwd")


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("clip.mp4", [0, 24, 49]),
        ("clip.mp4@1s", [25]),
        ("clip.mp4@0.5s-1s", [12, 18, 24]),
        (Path("clip.mp4@1s-9s"), [25, 37, 49]),
    ],
)
def test_a_range_after_the_path(value: str | Path, numbers: list[int], folder: Path) -> None:
    media = resolve(value)
    assert media.name == str(value)
    assert [number_of(image) for image in open_media(media, frames=3).images] == numbers


def test_a_file_of_that_very_name_wins(folder: Path) -> None:
    (folder / "clip.mp4@1s").write_bytes(image_bytes())
    assert resolve("clip.mp4@1s").kind == "image"


def test_a_range_given_apart(folder: Path) -> None:
    for value in ("clip.mp4", Path("clip.mp4"), clip(50)):
        frames = open_media(resolve(value, start=0.5, end=1.0), frames=3)
        assert [number_of(image) for image in frames.images] == [12, 18, 24]


def test_a_image_has_no_range(folder: Path) -> None:
    for value, start in [("a.jpg@2s", None), ("a.jpg", 2.0), (image_bytes(), 2.0), (Image.new("L", (9, 9)), 2.0)]:
        with pytest.raises(InputError, match="only a video has a range of time"):
            resolve(value, start=start)


def test_arrays() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert open_media(resolve(grey)).mode == "L"
    colour = np.zeros((3, 4, 3), np.uint8)
    assert open_media(resolve(colour)).size == (4, 3)
    frames = open_media(resolve(np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(3, 3)), frames=4)
    assert [np.asarray(image)[0, 0, 0] for image in frames.images] == [0, 3, 6, 9]
    assert frames.frame_count == 10 and np.isnan(frames.times).all() and np.isnan(frames.duration)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((3, 4, 3)), "is an array of float64; give uint8 values, 0 to 255"),
        (np.zeros((3, 4, 4), np.uint8), "is an array 3×4×4; give (H, W) or (H, W, 3) for an image"),
        (np.zeros(3, np.uint8), "is an array 3; give"),
        (np.zeros((0, 4, 3), np.uint8), "is an empty array, 0×4×3"),
        (np.zeros((0, 4, 4, 3), np.uint8), "is an empty array, 0×4×4×3"),
        (np.zeros((2, 3, 4, 5, 3), np.uint8), "is an array 2×3×4×5×3; give"),
    ],
)
def test_arrays_that_are_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(array, "input 3")
    assert str(caught.value).startswith(f"input 3: {reason}")


def test_pil_images(folder: Path) -> None:
    with Image.open("a.jpg") as image:
        media = resolve(image)
        assert media.kind == "image" and media.name.endswith("a.jpg")
        assert open_media(media).size == (40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("P", (40, 30)).save("turned.png", exif=exif)
    with Image.open("turned.png") as image:
        opened = open_media(resolve(image))
    assert opened.size == (30, 40) and opened.mode == "RGB"
    assert resolve(Image.new("L", (2, 2))).name == "image in memory"
    data = image_bytes(size=(400, 300))
    with pytest.raises(MediaDecodeError, match="image file is truncated"):
        open_media(resolve(Image.open(io.BytesIO(data[:-100]))))


@pytest.mark.parametrize("value", [None, 7, [1, 2], {"path": "a.jpg"}])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="give a path, a URL, bytes"):
        resolve(value)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_images_are_recognised(format: str) -> None:
    assert sniff(image_bytes(format, (32, 32))[:HEAD]) == "image"


@pytest.mark.parametrize(
    ("format", "codec"),
    [
        *[("mp4", "libx264"), ("mov", "mjpeg"), ("matroska", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4")],
        *[("mpegts", "libx264"), ("mpeg", "mpeg2video"), ("flv", "libx264"), ("asf", "mpeg4"), ("h264", "libx264")],
    ],
)
def test_videos_are_recognised(format: str, codec: str) -> None:
    assert sniff(clip(10, format, codec)[:HEAD]) == "video"


@pytest.mark.parametrize("head", [b"", b"RIFF\0\0\0\0WAVEfmt ", b"%PDF-1.7", b"GGGG", b"<html>", bytes(HEAD), b"ID3\4"])
def test_other_files_are_not(head: bytes) -> None:
    assert sniff(head) is None


def originals() -> list[tuple[str, bytes]]:
    data = pytest.importorskip("skimage.data")
    files = []
    for name, format in [
        ("astronaut", "JPEG"),
        ("coffee", "PNG"),
        ("chelsea", "WEBP"),
        ("rocket", "GIF"),
        ("chelsea", "TIFF"),
    ]:
        image = Image.fromarray(getattr(data, name)()).resize((96, 64))
        files.append((f"{name}.{format.lower()}", image_file(image, format)))
    files.append(("clip.mp4", clip(20, movflags="faststart")))
    files.append(("clip.mkv", clip(20, "matroska")))
    files.append(("clip.avi", clip(20, "avi", "mpeg4")))
    return files


def mutated(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Cut, flip or overwrite bytes, or keep all; half the names get another suffix."""
    files, suffixes, draw = originals(), sorted(MEDIA_SUFFIXES), random.Random(seed)
    for number in range(count):
        name, data = files[number % len(files)]
        kind = draw.choice(("cut", "flipped", "overwritten", "whole"))
        if draw.random() < 0.5:
            name = Path(name).stem + draw.choice(suffixes)
        yield f"{number:03d}-{name}", data if kind == "whole" else spoilt(data, name, kind, draw)
