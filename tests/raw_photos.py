"""A minimal DNG, red above and blue below when upright, with or without an embedded preview."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.preprocess.image import image_file

WIDTH, HEIGHT = 160, 128
_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "I", 10: "i"}


def write_dng(
    *,
    orientation: int = 1,
    preview: tuple[int, int] | None = None,
    colour: str = "lime",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> bytes:
    """Return a DNG whose sensor is stored turned by an EXIF orientation, and whose JPEG preview is green."""
    width, height = size
    upright = np.zeros((height, width, 3), np.uint16) if orientation < 5 else np.zeros((width, height, 3), np.uint16)
    upright[: len(upright) // 2, :, 0] = upright[len(upright) // 2 :, :, 2] = 40000
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1)}[orientation]
    mosaic = np.zeros((height, width), "<u2")
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = stored[row::2, column::2, channel]
    sensor: dict[int, tuple[int, Any]] = {
        254: (4, [0]), 256: (4, [width]), 257: (4, [height]), 258: (3, [16]), 259: (3, [1]), 262: (3, [32803]),
        273: (4, mosaic.tobytes()), 277: (3, [1]), 278: (4, [height]), 279: (4, [mosaic.nbytes]),
        33421: (3, [2, 2]), 33422: (1, [0, 1, 1, 2]), 50714: (4, [0]), 50717: (4, [40000]),
    }  # fmt: skip
    about: dict[int, tuple[int, Any]] = {
        271: (2, b"Maker\0"), 272: (2, b"Camera\0"), 274: (3, [orientation]), 306: (2, b"2024:07:31 18:05:00\0"),
        50706: (1, [1, 4, 0, 0]), 50708: (2, b"Maker Camera\0"),
        50721: (10, [(1, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 1)]),
        50728: (5, [(1, 1)] * 3), 50778: (3, [21]),
    }  # fmt: skip
    if preview is None:
        return _tiff([sensor | about])
    jpeg = image_file(Image.new("RGB", preview, "lime"), "JPEG")
    small: dict[int, tuple[int, Any]] = {
        254: (4, [1]), 256: (4, [preview[0]]), 257: (4, [preview[1]]), 258: (3, [8, 8, 8]), 259: (3, [7]),
        262: (3, [6]), 273: (4, jpeg), 277: (3, [3]), 278: (4, [preview[1]]), 279: (4, [len(jpeg)]),
    }  # fmt: skip
    return _tiff([small | about, sensor])


def _tiff(directories: list[dict[int, tuple[int, Any]]]) -> bytes:
    """Return a TIFF whose further directories are the first one's SubIFDs; tag 273 holds the strip itself."""
    data, sub = bytearray(b"II*\0\0\0\0\0"), 0
    for number, tags in reversed(list(enumerate(directories))):
        tags = tags | ({330: (4, [sub])} if sub else {})
        entries = []
        for tag, (kind, value) in sorted(tags.items()):
            count = len(value)
            if tag == 273:
                content, count = struct.pack("<I", len(data)), 1
                data += value
            elif kind == 2:
                content = value
            else:
                flat = [part for item in value for part in (item if isinstance(item, tuple) else (item,))]
                content = struct.pack(f"<{len(flat)}{_FORMATS[kind]}", *flat)
            if len(content) > 4:
                data += b"\0" * (len(data) % 2)
                content, _ = struct.pack("<I", len(data)), data.extend(content)
            entries.append(struct.pack("<HHI4s", tag, kind, count, content))
        data += b"\0" * (len(data) % 2)
        start = len(data)
        data += struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
        if number == 0:
            data[4:8] = struct.pack("<I", start)
        sub = start
    return bytes(data)
