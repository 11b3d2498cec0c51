"""Convert images to tensors: open an image file, and apply the published test transform (section 2.4, appendix B.1).

The transform resizes and converts to RGB afterwards, as the published one does: alpha is dropped, not blended.
Palettes, which Pillow resizes without interpolation, and 16 bits, which it clips, become 8 bits when opened.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from perception_encoder.errors import (
    ConfigError,
    MediaDecodeError,
    MediaTooLargeError,
    ShapeError,
    install_command,
    one_line,
)
from perception_encoder.files import digest
from perception_encoder.preprocess.budget import MAX_PIXELS, PIXEL_BYTES, Admit, check_pixels
from perception_encoder.preprocess.exif import Taken, read_exif
from perception_encoder.preprocess.raw import RawPhoto, is_raw
from perception_encoder.preprocess.source import Source, is_heif, open_source

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8
    from torch import Tensor, nn

_DECODER_BYTES = {"WEBP": 16, "AVIF": 16, "HEIF": 16}
"""Maximum bytes per pixel of decoders that need more than `PIXEL_BYTES`."""

SERVED_PIXELS = {"JPEG2000": 4_000_000, "AVIF": 25_000_000, "WEBP": 25_000_000}
"""Maximum pixels of what clients of a server send, in formats whose decoders stop the other threads: for a fifth of a
second."""

_SCANS, SCANNED_PIXELS = 100, 16 * MAX_PIXELS
"""Maximum number of a JPEG's scans, and of the pixels of all: the decoder goes over the whole image for each scan."""
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")
"""Of a JPEG's segment, or of its end; not in compressed data, which has only stuffed bytes and restarts."""
_SCAN, _END = 0xDA, 0xD9

_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations whose width is the upright image's height."""

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "JPEG2000", "TIFF", "BMP", "PPM")
"""Supported formats, by Pillow's names: those that a file's first bytes identify for certain and that run no other
program (HEIF needs pillow-heif, of the extra `heic`). RAW photographs are opened as their previews: see `RawPhoto`."""

NeededSide = Callable[[int, int], int]
"""Returns the minimum short side for an image of a given width and height."""


def open_image(
    source: Source,
    name: str | None = None,
    *,
    reduce_to: int | NeededSide | None = None,
    admit: Admit | None = None,
    served: bool = False,
) -> Image.Image:
    """Open an image fully: its first frame, upright, in a mode that the transform supports; the file is then closed.

    A RAW photograph (extra `raw`) opens as its embedded preview if that has `PREVIEW_SIDE` pixels, else in half size.
    Raises MediaNotFoundError, MediaDecodeError (empty, truncated, not an image) and MediaTooLargeError (over
    `MAX_PIXELS` or `MAX_BYTES`, or a JPEG of too many scans), named `name`.

    Args:
        reduce_to: Let the JPEG decoder halve an image up to three times while its short side stays at least this long;
            a function gives that by the stored width and height. At twice the transform's size, 12 megapixels then open
            and resize in a third of the time, but pixels move by 0.5/255 on average, so it is not the default. An image
            that cannot be decoded so is decoded whole.
        admit: Called with the bytes that the image takes once its header is read and before it is decoded: see
            `ByteBudget`.
        served: A client of a server sent it, so formats whose decoders stop other threads have lower limits.
    """
    with _opened_header(source, name) as (image, name):
        whole = image.size
        check_pixels(name, *whole, _pixel_bytes(image))
        least = reduce_to(*whole) if callable(reduce_to) else reduce_to
        if isinstance(image, RawPhoto):
            image = image.preview(least) or image
        elif served and (pixels := whole[0] * whole[1]) > (limit := SERVED_PIXELS.get(image.format or "", MAX_PIXELS)):
            raise MediaTooLargeError(name, f"has {pixels:,} pixels; a server opens {image.format} up to {limit:,}")
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            _check_scans(image, name)
        if least and not isinstance(image, RawPhoto):
            factor = least / min(image.size)
            image.draft(None, (math.ceil(image.width * factor), math.ceil(image.height * factor)))
        reduced = bool(least) and image.size != whole
        size = check_pixels(name, *image.size, _pixel_bytes(image))  # now of the preview, or of the reduced image
        if admit is not None:
            admit(size)
        if isinstance(image, RawPhoto):
            return image.half_size()
        try:
            return plain_image(image.copy() if getattr(image, "is_animated", False) else image)
        except Exception:
            if not reduced:
                raise
    del image  # its memory, before that of the whole one is asked for
    return open_image(source, name, admit=admit, served=served)


def count_pixels(source: Source, name: str | None = None) -> int:
    """Return an image's size from its header, without decoding it; raises what `open_image` raises."""
    with _opened_header(source, name) as (image, name):
        check_pixels(name, *image.size, _pixel_bytes(image))
        return image.size[0] * image.size[1]


def _pixel_bytes(image: Image.Image | RawPhoto) -> int:
    """Return the maximum bytes per pixel while an image is opened."""
    if isinstance(image, RawPhoto):
        return PIXEL_BYTES
    if image.format == "JPEG2000":
        return PIXEL_BYTES * len(image.getbands())
    return _DECODER_BYTES.get(image.format or "", 2 * PIXEL_BYTES if image.mode in ("I", "F") else PIXEL_BYTES)


def _check_scans(image: JpegImagePlugin.JpegImageFile, name: str) -> None:
    """Raise MediaTooLargeError for a JPEG of too many scans: a few bytes can make each of them a second's work."""
    stream, pixels, scans = cast(BinaryIO, image.fp), image.width * image.height, 0
    most = min(_SCANS, SCANNED_PIXELS // pixels)
    stream.seek(2)
    while (marker := _next_marker(stream)) not in (None, _END):
        start, head = stream.tell(), stream.read(3)
        if marker == _SCAN:
            scans += 1
            if head[2:] >= bytes([image.layers]) and not image.info.get("progressive"):
                return  # all colours at once: the decoder reads no other scan
            if scans > most:
                limit = f"the limit is {_SCANS} scans, of together {SCANNED_PIXELS:,} pixels"
                raise MediaTooLargeError(name, f"has more than {most} scans of {pixels:,} pixels; {limit}")
        stream.seek(start + max(2, int.from_bytes(head[:2], "big")))


def _next_marker(stream: BinaryIO) -> int | None:
    """Read a JPEG up to its next marker and return it; None at the end of the file."""
    size = 64
    while len(chunk := stream.read(size)) > 1:
        if found := _MARKER.search(chunk):
            stream.seek(found.end() - len(chunk), io.SEEK_CUR)
            return chunk[found.end() - 1]
        stream.seek(-1, io.SEEK_CUR)  # which may be half of a marker
        size = min(2 * size, 1 << 20)
    return None


@contextmanager
def _opened_header(source: Source, name: str | None) -> Iterator[tuple[Image.Image | RawPhoto, str]]:
    """Yield an image after reading only its header, and its name; name errors within the block."""
    with open_source(source, name) as (stream, name), _quiet_pillow():
        _prepare_heif(stream, name)
        try:
            if is_raw(stream):
                with closing(RawPhoto(source, stream, name)) as photo:
                    yield photo, name
                return
            Image.init()
            with Image.open(stream, formats=[known for known in FORMATS if known in Image.OPEN]) as image:
                yield image, name
        except (MediaDecodeError, MediaTooLargeError):
            raise
        except UnidentifiedImageError:
            raise MediaDecodeError(name, "is not an image in a supported format") from None
        except (Image.DecompressionBombError, MemoryError) as error:
            raise MediaTooLargeError(name, one_line(error)) from None
        except Exception as error:  # decoders raise anything over a damaged file
            raise MediaDecodeError(name, f"cannot be decoded: {one_line(error)}") from error


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """An image file's header, read without decoding the image."""

    size: tuple[int, int] | None = None
    """Upright width and height of a JPEG or RAW photograph; None for other formats, which are never reduced."""
    taken: Taken = field(default_factory=Taken)


def read_header(source: Source) -> ImageHeader:
    """Read an image's header; nothing for a damaged one."""
    header = ImageHeader()
    try:
        with _opened_header(source, None) as (image, _):
            if isinstance(image, RawPhoto):
                header = ImageHeader(size=image.size)
                return replace(header, taken=image.taken())
            if isinstance(image, JpegImagePlugin.JpegImageFile):
                header = ImageHeader(size=_upright_size(image))
            return replace(header, taken=read_exif(image))
    except Exception:  # damaged EXIF may raise anything, and is as good as none
        return header


def upright_size(source: Source, name: str | None = None) -> tuple[int, int]:
    """Return an image's upright width and height from its header; raises what `open_image` does."""
    with _opened_header(source, name) as (image, _):
        return image.size if isinstance(image, RawPhoto) else _upright_size(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    with suppress(Exception):  # damaged EXIF does not damage the image
        if image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS:
            return image.height, image.width
    return image.size


def _prepare_heif(stream: BinaryIO, name: str) -> None:
    """Register pillow-heif when the first HEIC or HEIF file is opened; MediaDecodeError if it is not installed."""
    head = stream.read(64)
    stream.seek(0)
    if not is_heif(head) or "HEIF" in Image.OPEN:
        return
    try:
        import pillow_heif
    except ImportError:
        raise MediaDecodeError(name, f"is HEIC; to read it, {install_command('heic')}") from None
    pillow_heif.register_heif_opener()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings about odd files; thread-safe, unlike `warnings.catch_warnings`."""
    filters = cast(list[Any], warnings.filters)
    filters.insert(0, entry := ("ignore", None, Warning, re.compile(r"PIL\."), 0))
    try:
        yield
    finally:
        with suppress(ValueError):  # someone else's catch_warnings has set another list
            cast(list[Any], warnings.filters).remove(entry)


def plain_image(image: Image.Image) -> Image.Image:
    """Return an image upright by its EXIF orientation, in an 8-bit mode that interpolates and converts to RGB.

    16 bits scale by 1/257, as do 32-bit integers within 0–65535; floats within 0–1 scale by 255. Palettes become RGB,
    their transparency dropped. Raises ValueError for other values and modes.
    """
    image.load()  # or a damaged file would be noticed later only, or never
    with suppress(Exception):  # damaged EXIF does not damage the image
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    return _eight_bit(image)


def content_key(images: Iterable[Image.Image], *settings: object) -> str:
    """Return a cache key that depends on the images' pixels and on `settings`, not on names."""
    content = (part for image in images for part in (image.size, image.convert("RGB").tobytes()))
    return digest(repr(settings), *content)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in ("RGB", "RGBA", "L", "LA", "CMYK", "YCbCr", "HSV"):
        return image
    if image.mode in ("P", "PA"):
        opaque = image.copy()
        opaque.info.pop("transparency", None)
        return opaque.convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    if not image.mode.startswith(("I", "F")):
        raise ValueError(f"its mode, {image.mode}, is unsupported; convert it to RGB")
    values, white = np.asarray(image), 1 if image.mode == "F" else 65535
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= white:  # nor NaN
        raise ValueError(f"its values, {low:g} to {high:g}, are outside 0 to {white}; convert it to 8 bits")
    scaled = np.multiply(values, 255 / white, dtype=np.float32)
    return Image.fromarray(np.add(scaled, 0.5, out=scaled).astype(np.uint8))


@dataclass(frozen=True)
class ImageTransform:
    """The published test transform: a PIL image to a tensor (3, H, W) in [-1, 1].

    "squash" resizes to the size, ignoring the aspect ratio; "crop" resizes until the image covers it and cuts out the
    centre.
    """

    size: int | tuple[int, int]
    """Side of the square, or (H, W), in pixels."""
    mode: Literal["squash", "crop"] = "squash"

    def __post_init__(self) -> None:
        check_transform(self.mode)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 H W"]:
        """Pixels, float32: (value / 255 - 0.5) / 0.5."""
        import torch

        return to_float(torch.from_numpy(self.pixels(image)))

    def pixels(self, image: Image.Image) -> UInt8[np.ndarray, "3 H W"]:
        """Return the pixels before scaling, contiguous, a quarter of the memory; `to_float` scales them."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        if self.mode == "squash":
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        else:
            image = _cover(image, height, width)
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        array = np.array(image.convert("RGB"))  # (H, W, 3)
        return np.ascontiguousarray(array.transpose(2, 0, 1))


def check_transform(mode: str) -> None:
    """Raise ConfigError for an unknown mode of `ImageTransform`."""
    if mode not in ("squash", "crop"):
        raise ConfigError(f"the transform {mode!r} is unknown; use squash or crop")


def to_float(pixels: UInt8[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Scale uint8 pixels to [-1, 1] with the published mean and deviation, 0.5 for each channel."""
    return pixels.float().div_(255).sub_(0.5).div_(0.5)


def _cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize to cover a size at the same aspect ratio; the other side is rounded down."""
    if image.width * height <= image.height * width:
        size = (width, max(height, width * image.height // image.width))
    else:
        size = (max(width, height * image.width // image.height), height)
    return image.resize(size, Image.Resampling.BILINEAR)


def image_transform(model: nn.Module, mode: Literal["squash", "crop"] = "squash") -> ImageTransform:
    """Return the transform of PIL images to the size that a model was trained at.

    Args:
        model: A model or vision tower of this package, in torch.
        mode: "squash", as published, or "crop": see `ImageTransform`.

    Raises:
        ConfigError: The mode is unknown.

    Examples:
        >>> pixels = pe.image_transform(model)(Image.open("photo.jpg"))  # (3, H, W)
    """
    tower: Any = getattr(model, "visual", model)
    return ImageTransform(tower.config.image_size, mode)


def pad_images(
    images: Sequence[Float[Tensor, "3 _ _"]], patch_size: int
) -> tuple[Float[Tensor, "B 3 H W"], Bool[Tensor, "B h w"]]:
    """Batch images of several sizes, padded with grey on the right and below.

    Args:
        images: At least one; its sides are multiples of the patch.
        patch_size: Side of a patch in pixels.

    Returns:
        The batch and a mask (B, h, w), True for patches of the image, as in `encode_image(batch, padding_mask=mask)`.

    Raises:
        ShapeError: There are no images, or a side is not whole patches.

    Examples:
        >>> batch, mask = pe.pad_images([torch.zeros(3, 224, 336), torch.zeros(3, 448, 224)], 14)
    """
    import torch

    if not images:
        raise ShapeError("no images to pad")
    for index, image in enumerate(images):
        if image.dim() != 3 or any(side % patch_size or not side for side in image.shape[1:]):
            shape = tuple(image.shape)
            raise ShapeError(f"image {index} is {shape}; it must be (3, H, W), H and W multiples of {patch_size}")
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    batch = images[0].new_zeros(len(images), 3, height, width)
    mask = torch.zeros(len(images), height // patch_size, width // patch_size, dtype=torch.bool, device=batch.device)
    for row, real, image in zip(batch, mask, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
        real[: image.shape[1] // patch_size, : image.shape[2] // patch_size] = True
    return batch, mask


def _thumbnail_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size with this longest side whose aspect ratio is nearest."""
    aspect = size[0] / size[1]
    if aspect <= 1:
        exact = side * aspect
        return max(1, min(math.floor(exact), math.ceil(exact), key=lambda width: abs(aspect - width / side))), side
    exact = side / aspect
    return side, min(max(1, math.floor(exact)), math.ceil(exact), key=lambda height: abs(aspect - side / height))


def encode_thumbnail(image: Image.Image, side: int) -> bytes:
    """Return a JPEG whose longest side is at most `side` pixels; transparent parts become white."""
    if max(image.size) > side:  # as `Image.thumbnail`, which would need a copy; averaging first halves the time
        image = image.resize(_thumbnail_size(image.size, side), Image.Resampling.BICUBIC, reducing_gap=1.0)
    if image.mode in ("RGBA", "LA"):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image_file(image.convert("RGB"), "JPEG", quality=82, optimize=True)


def image_file(image: Image.Image, form: str, **options: Any) -> bytes:
    """Return an image as a file of a format of Pillow's, such as "PNG", with its options."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()
