"""The test transform equals the published one; image files of every kind open upright, whole and in 8 bits."""

from __future__ import annotations

import io
import pickle
import sys
import tracemalloc
import warnings
import zlib
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import ExifTags, Image, JpegImagePlugin

from perception_encoder.errors import ConfigError, MediaDecodeError, MediaTooLargeError, ShapeError
from perception_encoder.preprocess.budget import PIXEL_BYTES
from perception_encoder.preprocess.image import (
    ImageHeader,
    ImageTransform,
    content_key,
    count_pixels,
    encode_thumbnail,
    image_file,
    open_image,
    pad_images,
    plain_image,
    read_header,
)

pytestmark = pytest.mark.security

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess.npz"


def photograph(name: str = "chelsea") -> Image.Image:
    data = pytest.importorskip("skimage.data")
    return Image.fromarray(getattr(data, name)())


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def four_colours(width: int = 64, height: int = 32) -> Image.Image:
    """Red, green above blue, white: no two of its eight orientations look alike."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = 255
    return Image.fromarray(pixels)


def test_golden_pixels() -> None:
    for key, golden in np.load(GOLDEN).items():
        name, size, mode = key.split("/")
        pixels = ImageTransform(int(size), mode)(photograph(name))
        assert pixels.shape == (3, int(size), int(size)) and pixels.dtype == torch.float32
        difference = np.abs(pixels[:, ::16, ::16].numpy() - golden).max()
        assert difference <= 2 / 255 / 8, key  # 1/255 of a pixel's range of 2 is the promise; we are far below


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "CMYK", "P"])
def test_pixels_equal_torchvisions(mode: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    bilinear = transforms.InterpolationMode.BILINEAR
    tail = [lambda x: x.convert("RGB"), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    squash = transforms.Compose([transforms.Resize((48, 48), interpolation=bilinear), *tail])
    crop = transforms.Compose([transforms.Resize(48, interpolation=bilinear), transforms.CenterCrop(48), *tail])
    for shape in ((451, 300), (33, 97), (224, 224), (1001, 13)):
        image = photograph().resize(shape).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(photograph("coffee").resize(shape).convert("L"))
        assert torch.equal(ImageTransform(48)(image), squash(image))
        assert torch.equal(ImageTransform(48, "crop")(image), crop(image))


def test_a_transform_pickles_and_refuses_an_unknown_mode() -> None:
    assert pickle.loads(pickle.dumps(ImageTransform(224, "crop"))) == ImageTransform(224, "crop")
    with pytest.raises(ConfigError, match="'stretch'"):
        ImageTransform(224, "stretch")


def test_images_of_several_sizes_become_one_batch() -> None:
    images = [torch.ones(3, 32, 48), torch.full((3, 64, 16), -1.0)]
    batch, mask = pad_images(images, patch_size=16)
    assert batch.shape == (2, 3, 64, 48) and mask.shape == (2, 4, 3)
    assert mask.int().tolist() == [[[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]], [[1, 0, 0]] * 4]
    pixels = mask.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None].expand_as(batch)
    assert (batch[~pixels] == 0).all() and (batch[pixels].abs() == 1).all()


@pytest.mark.parametrize("shapes", [[], [(3, 32, 32), (3, 32, 40)], [(3, 0, 16)], [(32, 32)]])
def test_what_cannot_be_padded(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ShapeError):
        pad_images([torch.zeros(shape) for shape in shapes], patch_size=16)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(format: str) -> None:
    upright, exif = four_colours(), Image.Exif()
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's numbers of what undoes each
    for orientation, turn in turns.items():
        exif[0x0112] = orientation
        stored = upright.transpose(Image.Transpose(turn))
        opened = open_image(image_file(stored, format, exif=exif))
        assert opened.size == upright.size
        assert np.abs(np.asarray(opened, int) - np.asarray(upright, int))[8::16, 16::32].max() < 8
        assert plain_image(opened).tobytes() == opened.tobytes()  # it is not turned a second time


def test_a_palette_is_interpolated_and_its_transparency_dropped() -> None:
    palette = photograph().convert("P")
    for format, transparency in [("PNG", bytes(256)), ("GIF", 7)]:
        opened = open_image(image_file(palette, format, transparency=transparency))
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), np.asarray(palette.convert("RGB")))
    one_bit = open_image(image_file(photograph().convert("1"), "PNG"))
    assert len(np.unique(np.asarray(one_bit.resize((40, 40), Image.Resampling.BILINEAR)))) > 50


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    expected = np.round(ramp / 257)
    for mode, dtype in [("I;16", "<u2"), ("I;16B", ">u2")]:
        image = Image.frombytes(mode, (64, 64), ramp.astype(dtype).tobytes())
        opened = open_image(image_file(image, "TIFF"))
        assert opened.mode == "L"
        assert np.abs(np.asarray(opened, float) - expected).max() <= 1, mode
    assert np.abs(np.asarray(open_image(image_file(Image.fromarray(ramp), "PNG")), float) - expected).max() <= 1
    header = b"P5 64 64 65535\n" + ramp.astype(">u2").tobytes()
    assert np.abs(np.asarray(open_image(header), float) - expected).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[-100, 0, 100]], np.int32), None),
        (np.array([[0.0, 50.0, 100.0]], np.float32), None),
        (np.array([[0.0, np.nan, 1.0]], np.float32), None),
    ],
)
def test_integers_and_floats_fit_eight_bits_or_are_refused(values: np.ndarray, expected: list[int] | None) -> None:
    data = image_file(Image.fromarray(values), "TIFF")
    if expected is None:
        with pytest.raises(MediaDecodeError, match=r"depth\.tif: cannot be decoded"):
            open_image(data, "depth.tif")
        return
    opened = open_image(data)
    assert opened.mode == "L"
    assert np.asarray(opened)[0].tolist() == expected


def test_cmyk_is_read_and_lab_refused() -> None:
    image = photograph()
    cmyk = open_image(image_file(image.convert("CMYK"), "JPEG", quality=95))
    assert cmyk.mode == "CMYK"
    assert np.abs(np.asarray(cmyk.convert("RGB"), float) - np.asarray(image, float)).mean() < 5
    lab = Image.merge("LAB", [Image.new("L", (8, 8), level) for level in (128, 128, 128)])
    with pytest.raises(MediaDecodeError, match="mode, LAB, is unsupported"):
        open_image(image_file(lab, "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("red", "green", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    opened = open_image(image_file(frames[0], format, save_all=True, append_images=frames[1:], **options))
    assert np.asarray(opened.convert("RGB"))[5, 5].tolist() == [255, 0, 0]
    assert opened.copy().size == (24, 24)


def png(width: int, height: int) -> bytes:
    """A one-bit PNG that is small and says that it is large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(min(height, 100) * (1 + (width + 7) // 8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_decompression_bomb() -> None:
    with pytest.raises(MediaTooLargeError, match=r"bomb\.png: Image size .* exceeds limit"):
        open_image(png(60000, 60000), "bomb.png")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no picture at all, only words", "is not an image in a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image in a supported format"),
        (b"\xff\xd8\xff", "is not an image in a supported format"),
        (image_file(four_colours(200, 100), "PNG")[:120], "cannot be decoded: "),
        (image_file(four_colours(200, 100), "JPEG")[:-200], "cannot be decoded: image file is truncated"),
    ],
)
def test_what_is_no_whole_image(data: bytes, reason: str) -> None:
    with pytest.raises(MediaDecodeError) as caught:
        open_image(data, "photo.jpg")
    assert str(caught.value).startswith(f"photo.jpg: {reason}")
    assert "\n" not in str(caught.value)


def test_pillows_warnings_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    data = image_file(four_colours(), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(data))
        before = list(warnings.filters)
        open_image(data)
        assert warnings.filters == before


def test_a_large_jpeg_may_be_decoded_smaller() -> None:
    image = photograph().resize((1804, 1200), Image.Resampling.BICUBIC)
    data = image_file(image, "JPEG", quality=90)
    assert open_image(data).size == (1804, 1200)
    assert open_image(data, reduce_to=300).size == (451, 300)
    assert open_image(data, reduce_to=301).size == (902, 600)
    assert open_image(data, reduce_to=5000).size == (1804, 1200)
    assert open_image(image_file(image, "PNG"), reduce_to=300).size == (1804, 1200)
    transform = ImageTransform(150)
    moved = (transform(open_image(data)) - transform(open_image(data, reduce_to=300))).abs().mean()
    assert moved <= 2 * 2 / 255


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"progressive": True}),
        ("RGB", {"exif": turned(6)}),
        ("RGB", {"subsampling": 0, "quality": 30}),
        ("CMYK", {}),
        ("L", {}),
    ],
)
def test_odd_jpegs_are_the_same_reduced(mode: str, options: dict[str, Any]) -> None:
    image = photograph().resize((1804, 1200), Image.Resampling.BICUBIC).convert(mode)
    data = image_file(image, "JPEG", **options)
    whole, reduced = open_image(data), open_image(data, reduce_to=300)
    assert min(reduced.size) == 300 and (reduced.width > reduced.height) == (whole.width > whole.height)
    transform = ImageTransform(150)
    assert (transform(whole) - transform(reduced)).abs().mean() <= 2 * 2 / 255


@pytest.mark.parametrize(("mode", "format"), [("I;16", "PNG"), ("I;16", "TIFF"), ("RGBA", "PNG"), ("RGB", "WEBP")])
def test_formats_that_cannot_be_reduced_are_decoded_whole(mode: str, format: str) -> None:
    image = photograph().resize((902, 600)).convert("I" if mode == "I;16" else mode)
    data = image_file(image.point(lambda value: value * 200).convert(mode) if mode == "I;16" else image, format)
    whole, reduced = open_image(data), open_image(data, reduce_to=100)
    assert whole.size == reduced.size == (902, 600) and np.ptp(np.asarray(whole)) > 100
    np.testing.assert_array_equal(np.asarray(whole), np.asarray(reduced))


@pytest.mark.parametrize("cut", [200, 20_000, 100_000])
def test_a_damaged_jpeg_has_the_same_error_reduced(cut: int) -> None:
    data = image_file(photograph().resize((1804, 1200)), "JPEG", quality=90)[:-cut]
    errors = []
    for reduce_to in (None, 300):
        with pytest.raises(MediaDecodeError) as caught:
            open_image(data, "photo.jpg", reduce_to=reduce_to)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_a_jpeg_that_cannot_be_decoded_reduced_is_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_file(photograph().resize((1804, 1200)), "JPEG", quality=90)
    load = JpegImagePlugin.JpegImageFile.load

    def failing(self: JpegImagePlugin.JpegImageFile) -> Any:
        if self.size != (1804, 1200):
            raise OSError("broken data stream when reading image file")
        return load(self)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", failing)
    assert open_image(data, reduce_to=300).size == (1804, 1200)


@pytest.fixture
def heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A phone's photograph, red above and blue below, before anything has opened one."""
    image = Image.new("RGB", (64, 48), "red")
    image.paste("blue", (0, 24, 64, 48))
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2024:07:31 18:05:00"
    file = pillow_heif.from_pillow(image)
    file.info["exif"] = exif.tobytes()
    file.save(tmp_path / "IMG_1.HEIC", quality=90)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    return tmp_path / "IMG_1.HEIC"


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_heic_photograph_is_opened(heic: Path, in_memory: bool) -> None:
    source = heic.read_bytes() if in_memory else heic
    pixels = np.asarray(open_image(source).convert("RGB"), np.int64)
    assert pixels.shape == (48, 64, 3)
    for row, colour in ((4, (255, 0, 0)), (44, (0, 0, 255))):
        assert abs(pixels[row, 32] - colour).max() < 20
    header = read_header(source)
    assert (header.taken.date, header.size) == (datetime(2024, 7, 31, 18, 5), None)


def test_without_pillow_heif_a_heic_photograph_names_the_extra(heic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaDecodeError, match=r"IMG_1\.HEIC: .*\[heic\]"):
        open_image(heic)


def test_a_large_16_bit_image_takes_little_more_than_its_own_memory() -> None:
    values = np.arange(4_000_000, dtype=np.uint16).reshape(2000, 2000)
    expected = ((values.astype(np.float64) / 65535) * 255 + 0.5).astype(np.uint8)
    image = Image.fromarray(values)
    plain_image(image)
    tracemalloc.start()
    try:
        found = plain_image(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * values.size + 16 * (1 << 20)
    assert np.abs(np.asarray(found).astype(int) - expected).max() <= 1


def test_an_image_is_admitted_by_its_header_before_it_is_decoded(tmp_path: Path) -> None:
    def refuse(size: int) -> None:
        raise MediaTooLargeError("large", f"takes {size} bytes")

    path = tmp_path / "large.png"
    Image.new("L", (3000, 2000)).save(path)
    path.write_bytes(path.read_bytes()[:1000])  # nothing to decode
    with pytest.raises(MediaTooLargeError, match=str(3000 * 2000 * PIXEL_BYTES)):
        open_image(path, admit=refuse)


def test_the_limit_of_pixels_is_one_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: a WebP of 164 million pixels in 256 KB took 2.2 GB."""
    monkeypatch.setattr("perception_encoder.preprocess.budget.MAX_BYTES", 8 * 1000)
    webp = [image_file(Image.new("RGB", (25, height)), "WEBP", lossless=True) for height in (20, 21)]
    assert open_image(webp[0]).size == (25, 20)
    for refused in (open_image, count_pixels):
        with pytest.raises(MediaTooLargeError, match="has 525 pixels; the limit is 500"):
            refused(webp[1])
    assert count_pixels(webp[0]) == 500


def test_a_content_key_depends_on_pixels_shape_and_settings() -> None:
    red, palette = Image.new("RGB", (4, 2), "red"), Image.new("P", (4, 2))
    palette.putpalette((255, 0, 0))
    assert content_key([red]) == content_key([red.copy()]) == content_key([palette])
    blue, tall = Image.new("RGB", (4, 2), "blue"), Image.new("RGB", (2, 4), "red")
    keys = {content_key([red]), content_key([red], 2), *(content_key(item) for item in ([red, red], [blue], [tall]))}
    assert len(keys) == 5


@pytest.mark.parametrize(("size", "mode"), [((301, 200), "RGB"), ((3, 2000), "L"), ((1023, 687), "RGBA")])
def test_a_thumbnail_is_pillows_and_leaves_the_image_as_it_is(size: tuple[int, int], mode: str) -> None:
    image = photograph().resize(size).convert(mode)
    before = image.tobytes()
    expected = image.copy()
    expected.thumbnail((256, 256), reducing_gap=1.0)
    assert encode_thumbnail(image, 256) == image_file(expected.convert("RGB"), "JPEG", quality=82, optimize=True)
    assert (image.size, image.tobytes()) == (size, before)


def test_the_header_of_a_jpeg_gives_its_upright_size_and_date() -> None:
    image = photograph().resize((640, 480))
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = "2024:07:31 18:05:00"
    for orientation in range(1, 9):
        exif[ExifTags.Base.Orientation] = orientation
        data = image_file(image, "JPEG", exif=exif)
        header = read_header(data)
        assert header.size == open_image(data).size == ((640, 480) if orientation < 5 else (480, 640))
        assert header.taken.date == datetime(2024, 7, 31, 18, 5)
        assert open_image(data, reduce_to=240).size in ((320, 240), (240, 320))
    assert read_header(image_file(image, "PNG")).size is None
    assert read_header(b"damaged") == ImageHeader()
