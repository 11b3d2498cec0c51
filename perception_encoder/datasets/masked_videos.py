"""Read videos with object masks in some frames: DAVIS, directories or tars of JPEGs and PNGs.

A mask's pixels are 0 (background) or an object's number; 255 is not scored. In a mask of black and white alone, as in
DAVIS 2016, white is object 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from perception_encoder.datasets.labelled import Stored, read_integers
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.entries import quoted, read_lines
from perception_encoder.formats.shards import read_members, split_member
from perception_encoder.preprocess.image import open_image

VOID = 255
"""Value of mask pixels that are not scored."""


@dataclass(frozen=True)
class MaskedVideo:
    """A video's stored frames, with masks for some of them."""

    name: str
    frames: tuple[Stored, ...]
    masks: tuple[Stored | None, ...]
    """One per frame; the first is never None."""

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(f"{self.name}/frame {number}" for number in range(len(self.frames)))

    def open(self, index: int) -> Image.Image:
        """Open a frame, RGB; InputError if it cannot be decoded."""
        return open_image(self.frames[index], self.keys[index]).convert("RGB")

    def read_masks(self) -> list[np.ndarray | None]:
        """Decode the masks, uint8 (H, W); None for a frame without one.

        Raises InputError for a mask that cannot be decoded, and if masks differ in size.
        """
        masks = [
            None if mask is None else read_object_mask(mask, f"{self.name}/mask {number}")
            for number, mask in enumerate(self.masks)
        ]
        first = masks[0]
        for number, mask in enumerate(masks):
            if first is not None and mask is not None and mask.shape != first.shape:
                raise InputError(self.name, f"mask {number} is {mask.shape}, the first is {first.shape}")
        return masks


def read_object_mask(mask: Stored, name: str, binary: bool = True) -> np.ndarray:
    """Decode a mask, uint8 (H, W): see the module; MediaDecodeError if it is not a one-channel image.

    `binary`: in a mask of black and white alone, white is 1.
    """
    requirement = "a mask must have one 8-bit channel or a palette"
    pixels, mode = read_integers(mask, name, ("1", "L", "P"), requirement)
    pixels = pixels.astype(np.uint8)
    if binary and mode == "L" and not ((pixels > 0) & (pixels < VOID)).any():
        return (pixels == VOID).astype(np.uint8)
    return pixels


def read_videos(path: Path) -> list[MaskedVideo]:
    """Read the videos of a path, sorted by name: see the module.

    Raises DataError if there are none, and for a video of one frame or without a mask of its first.
    """
    if (path / "JPEGImages").is_dir():
        videos = _read_davis(path)
    elif path.is_file():
        videos = [_read_tar(path)]
    else:
        videos = [_read_tar(tar) for tar in sorted(path.glob("*.tar"))]
        videos += [_pair(item.name, item, item) for item in sorted(path.glob("*/")) if any(item.glob("*.jpg"))]
    if not videos:
        raise DataError(f"{path}: no JPEGImages, no NAME.tar and no NAME/*.jpg")
    return sorted(videos, key=lambda video: video.name)


def _read_davis(root: Path) -> list[MaskedVideo]:
    frames, masks = root / "JPEGImages" / "480p", root / "Annotations" / "480p"
    names, split_file = sorted(path.name for path in masks.glob("*/")), root / "ImageSets" / "2017" / "val.txt"
    if split_file.is_file():
        names = [name for line in read_lines(split_file) for name in line.split()]
        if missing := next((name for name in names if not os.path.isdir(frames / name)), None):
            raise DataError(f"{split_file}: no directory of frames {quoted(missing)} in {frames}")
    return [_pair(name, frames / name, masks / name) for name in names]


def _read_tar(path: Path) -> MaskedVideo:
    frames: dict[str, Stored] = {}
    masks: dict[str, Stored] = {}
    for name, content in read_members(path, ("jpg", "jpeg", "png")):
        key, extension = split_member(name)
        (masks if extension == "png" else frames)[key] = content
    return _video(path.stem, frames, masks)


def _pair(name: str, frames: Path, masks: Path) -> MaskedVideo:
    return _video(name, {p.stem: p for p in frames.glob("*.jpg")}, {p.stem: p for p in masks.glob("*.png")})


def frame_order(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts names of frames by the numbers in them, padded with zeros or not."""
    return [int(part) if at % 2 else part for at, part in enumerate(re.split(r"(\d+)", name))], name


def _video(name: str, frames: Mapping[str, Stored], masks: Mapping[str, Stored]) -> MaskedVideo:
    keys = sorted(frames, key=frame_order)
    if len(keys) < 2:
        raise DataError(f"{name}: has {len(keys)} frames; tracking needs at least 2")
    if keys[0] not in masks:
        raise DataError(f"{name}: the first frame, {keys[0]}, has no mask {keys[0]}.png")
    return MaskedVideo(name, tuple(frames[key] for key in keys), tuple(masks.get(key) for key in keys))
