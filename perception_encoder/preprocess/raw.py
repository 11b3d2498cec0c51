"""Open RAW photographs with rawpy (LibRaw; the extra `raw`): their embedded preview, or the sensor's at half size."""

from __future__ import annotations

import importlib.util
import io
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from perception_encoder.errors import MediaDecodeError, install_command
from perception_encoder.preprocess.exif import Taken, read_exif
from perception_encoder.preprocess.source import Source, is_raw_head

if TYPE_CHECKING:
    import rawpy

PREVIEW_SIDE = 1024
"""Minimum short side of a preview that replaces the sensor's image: twice that of the models' inputs."""
_SUBFILE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706
_REDUCED = 1  # the kind of a first image that is only a preview
_ORIENTATIONS = {3: 3, 5: 8, 6: 6}
"""EXIF's numbers of turned images, by LibRaw's."""


@cache
def reads_raw() -> bool:
    """Return whether rawpy is installed."""
    return importlib.util.find_spec("rawpy") is not None


def is_raw(stream: BinaryIO) -> bool:
    """Return whether a file is a RAW photograph, by its content; the stream is at its beginning again.

    DNG, NEF and ARW are TIFF files: a DNG says so; in the others, the first image is a preview of other images.
    """
    head = stream.read(32)
    try:
        if is_raw_head(head):
            return True
        if head[:4] not in (b"II*\0", b"MM\0*"):
            return False
        directory = TiffImagePlugin.ImageFileDirectory_v2(head[:8])
        stream.seek(directory.next)
        directory.load(stream)
        is_preview = _SUB_IFDS in directory and directory.get(_SUBFILE) == _REDUCED
        return _DNG_VERSION in directory or (is_preview and ExifTags.Base.Make in directory)
    except Exception:  # a damaged TIFF is Pillow's to report
        return False
    finally:
        stream.seek(0)


class RawPhoto:
    """A RAW photograph; only its header is read at first."""

    def __init__(self, source: Source, stream: BinaryIO, name: str) -> None:
        """`stream` is the opened `source`. MediaDecodeError without rawpy; rawpy's errors for a damaged file."""
        if not reads_raw():
            raise MediaDecodeError(name, f"is a RAW photograph; to read it, {install_command('raw')}")
        import rawpy

        # LibRaw reads a file by parts, but a stream as a whole
        self._raw: rawpy.RawPy = rawpy.imread(os.fspath(source) if isinstance(source, Path) else stream)
        sizes = self._raw.sizes
        self._flip, side = sizes.flip, (sizes.width, sizes.height)
        self.size: tuple[int, int] = side[::-1] if sizes.flip in (5, 6) else side
        """Upright width and height of the sensor's image."""

    def close(self) -> None:
        """Free the memory."""
        self._raw.close()

    def preview(self, least: int | None) -> Image.Image | None:
        """Return the embedded preview, which may not be decoded yet; None if its short side has too few pixels.

        `least`: the pixels needed, `PREVIEW_SIDE` by default; half of the sensor's are always enough.
        """
        preview = self._preview()
        enough = min(least or PREVIEW_SIDE, min(self.size) // 2)
        return preview if preview is not None and min(preview.size) >= enough else None

    def half_size(self) -> Image.Image:
        """Return the sensor's image, upright, in RGB, with half the width and height."""
        return Image.fromarray(self._raw.postprocess(half_size=True, use_camera_wb=True, output_bps=8))

    def taken(self) -> Taken:
        """Return when, where and with which camera it was taken, by the EXIF of the preview."""
        preview = self._preview()
        return Taken() if preview is None else read_exif(preview)

    def _preview(self) -> Image.Image | None:
        import rawpy

        try:
            data = self._raw.extract_thumb().data
            image: Image.Image = (
                Image.open(io.BytesIO(data), formats=["JPEG"])
                if isinstance(data, bytes)
                else Image.fromarray(np.asarray(data))
            )
        except (rawpy.LibRawError, UnidentifiedImageError):  # none, or of an unsupported format
            return None
        exif = image.getexif()
        if ExifTags.Base.Orientation not in exif:
            exif[ExifTags.Base.Orientation] = _ORIENTATIONS.get(self._flip, 1)  # so that it is turned once decoded
        return image
