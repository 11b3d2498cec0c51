"""Videos whose first frames have object masks: DAVIS folders, and folders or tar files of NNNNN.jpg with NNNNN.png.

    ROOT/JPEGImages/480p/NAME/NNNNN.jpg  ROOT/Annotations/480p/NAME/NNNNN.png  ROOT/ImageSets/2017/val.txt     DAVIS
    PLACE/NAME.tar  or  PLACE/NAME/      each with NNNNN.jpg and NNNNN.png                                     others
    PLACE/00000.tar …  KEY.mp4  KEY.mask.png (the frames' masks below each other)                 rendered videos

A mask's pixels are 0 (background) or an object's number; 255 counts for nothing. In a mask of black and white alone,
as DAVIS 2016 has them, white is object 1.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from perception_encoder.errors import DataError, InputError, MediaDecodeError
from perception_encoder.formats.entries import quoted, read_lines
from perception_encoder.formats.shards import read_members, split_member
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.video import read_frames as read_film

VOID = 255
"""In a mask: a pixel that is not scored."""

Stored = Path | bytes
"""A file, or what was in it."""


@dataclass(frozen=True)
class MaskedVideo:
    """A video's frames, and the masks of some of them, as stored."""

    name: str
    frames: tuple[Stored, ...]
    masks: tuple[Stored | None, ...]
    """One for each frame; the first is never None."""

    def read_frames(self) -> list[Image.Image]:
        """Decode the frames, RGB; InputError, named `VIDEO/frame N`, for one that cannot be decoded."""
        return [open_image(frame, f"{self.name}/frame {n}").convert("RGB") for n, frame in enumerate(self.frames)]

    def read_masks(self) -> list[np.ndarray | None]:
        """Decode the masks, uint8 (H, W), None where a frame has none.

        Raises InputError for a mask that cannot be decoded, and where masks differ in size.
        """
        masks = [
            None if mask is None else read_object_mask(mask, f"{self.name}/mask {n}")
            for n, mask in enumerate(self.masks)
        ]
        first = masks[0]
        for number, mask in enumerate(masks):
            if first is not None and mask is not None and mask.shape != first.shape:
                raise InputError(self.name, f"mask {number} is {mask.shape}, the first is {first.shape}")
        return masks


def read_object_mask(mask: Stored, name: str, binary: bool = True) -> np.ndarray:
    """Decode a mask, uint8 (H, W): see the module; MediaDecodeError where it is no picture of one channel.

    `binary`: in a mask of black and white alone, white is 1.
    """
    try:
        with Image.open(io.BytesIO(mask) if isinstance(mask, bytes) else mask) as image:
            if image.mode not in ("1", "L", "P"):
                raise MediaDecodeError(
                    name, f"has the mode {image.mode}; a mask has one channel of 8 bits or a palette"
                )
            pixels = np.asarray(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaDecodeError(name, f"cannot be decoded: {error}") from error
    if binary and image.mode == "L" and not ((pixels > 0) & (pixels < VOID)).any():
        return (pixels == VOID).astype(np.uint8)
    return pixels


def read_videos(place: Path) -> list[MaskedVideo]:
    """Find the videos of a place, sorted by name: see the module.

    Raises DataError where there are none, and for a video of one frame or without a mask of its first.
    """
    if (place / "JPEGImages").is_dir():
        videos = _read_davis(place)
    elif place.is_file():
        videos = _read_tar(place)
    else:
        tars = [_read_tar(path) for path in sorted(place.glob("*.tar"))]
        videos = [video for some in tars for video in some] + [
            _read_pairs(path) for path in sorted(place.glob("*/")) if any(path.glob("*.jpg"))
        ]
    if not videos:
        raise DataError(f"{place}: no JPEGImages, no NAME.tar and no NAME/*.jpg")
    return sorted(videos, key=lambda video: video.name)


def _read_davis(root: Path) -> list[MaskedVideo]:
    resolution = next((name for name in ("480p", "Full-Resolution", "") if (root / "JPEGImages" / name).is_dir()), "")
    frames, masks = root / "JPEGImages" / resolution, root / "Annotations" / resolution
    names = sorted(path.name for path in masks.glob("*/"))
    for year in ("2017", "2016"):
        listed = root / "ImageSets" / year / "val.txt"
        if listed.is_file():
            names = [name for line in read_lines(listed) for name in line.split()]
            if missing := next((name for name in names if not os.path.isdir(frames / name)), None):
                raise DataError(f"{listed}: there is no folder of frames {quoted(missing)} in {frames}")
            break
    return [
        _pair(
            name, {p.stem: p for p in (frames / name).glob("*.jpg")}, {p.stem: p for p in (masks / name).glob("*.png")}
        )
        for name in names
    ]


def _read_pairs(folder: Path) -> MaskedVideo:
    return _pair(folder.name, {p.stem: p for p in folder.glob("*.jpg")}, {p.stem: p for p in folder.glob("*.png")})


def _read_tar(path: Path) -> list[MaskedVideo]:
    frames: dict[str, Stored] = {}
    masks: dict[str, Stored] = {}
    films: dict[str, dict[str, bytes]] = {}
    for name, content in read_members(path, ("jpg", "jpeg", "png", "mp4", "mask.png")):
        key, extension = split_member(name)
        if extension in ("mp4", "mask.png"):
            films.setdefault(key, {})[extension] = content
        else:
            (masks if extension == "png" else frames)[key] = content
    rendered = [_cut_film(key, parts) for key, parts in films.items() if "mp4" in parts]
    return rendered if rendered else [_pair(path.stem, frames, masks)]


def _cut_film(name: str, parts: Mapping[str, bytes]) -> MaskedVideo:
    """A film and its masks as frames, each stored by itself without loss.

    What cannot be decoded stays as it is, so that it fails, and is reported, where it is used.
    """
    if "mask.png" not in parts:
        raise DataError(f"{name}: the video has no {name}.mask.png")
    try:
        stacked = read_object_mask(parts["mask.png"], f"{name} (mask)", binary=False)
        width, height = read_film(parts["mp4"], name, 1).images[0].size
        count, rest = divmod(stacked.shape[0], height)
        shown = read_film(parts["mp4"], name, max(1, count)).images
    except InputError:
        return MaskedVideo(name, (parts["mp4"],) * 2, (parts["mask.png"], None))
    if count < 2:
        raise DataError(f"{name}: has {count} frames; at least 2 are needed, for something to be followed")
    if rest or stacked.shape[1] != width:
        raise DataError(f"{name}: masks of {stacked.shape} are not those of whole frames of {height}x{width}")
    masks = np.split(stacked, count)
    return MaskedVideo(name, tuple(map(_png, shown)), tuple(_png(Image.fromarray(mask)) for mask in masks))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _pair(name: str, frames: Mapping[str, Stored], masks: Mapping[str, Stored]) -> MaskedVideo:
    keys: Sequence[str] = sorted(frames)
    if len(keys) < 2:
        raise DataError(f"{name}: has {len(keys)} frames; at least 2 are needed, for something to be followed")
    if keys[0] not in masks:
        raise DataError(f"{name}: the first frame, {keys[0]}, has no mask {keys[0]}.png")
    return MaskedVideo(name, tuple(frames[key] for key in keys), tuple(masks.get(key) for key in keys))
