"""Find the images of a spatial alignment, with object masks if there are any.

PATH/*.tar or PATH/train/*.tar   KEY.jpg, and KEY.mask.png if there are masks
PATH                             a directory of images, searched recursively, or one tar
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from perception_encoder.datasets.labelled import read_integers
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.media_directory import list_media
from perception_encoder.formats.shards import MASK, split_member
from perception_encoder.formats.tars import TarMember, check_entry, open_tar
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.source import IMAGE_SUFFIXES, SHARD_IMAGES, open_source


@dataclass(frozen=True)
class AlignmentImage:
    """An image, with its object mask if there is one."""

    key: str
    """Name in its dataset; not unique across datasets."""
    name: str
    """Path, with the name in its tar."""
    image: Path | TarMember
    size: int
    """Bytes."""
    mask: TarMember | None = None

    def held_out(self, share: float) -> bool:
        """Return whether the image is held out for validation, which depends only on its name."""
        digest = hashlib.blake2b(self.key.encode(errors="surrogatepass"), digest_size=4).digest()
        return int.from_bytes(digest) < share * 2**32

    def read(self) -> bytes:
        """Return the image's bytes; InputError if they cannot be read."""
        if isinstance(self.image, TarMember):
            return self.image.read(self.name)
        with open_source(self.image, self.name) as (stream, _):
            return stream.read()

    def open(
        self, with_mask: bool = True, content: bytes | None = None
    ) -> tuple[UInt8[Tensor, "3 H W"], Int[Tensor, "H W"] | None]:
        """Decode the image and, with `with_mask`, its mask; InputError if that fails or their sizes differ.

        `content`: the image's bytes, if they have been read already.
        """
        pixels = np.array(open_image(self.read() if content is None else content, self.name).convert("RGB"))
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.mask is None or not with_mask:
            return image, None
        name = f"the mask of {self.name}"
        requirement = "a mask must have one channel or a palette"
        mask = read_integers(self.mask.read(name), name, ("1", "L", "P", "I", "I;16"), requirement)[0].astype(np.int64)
        if mask.shape != pixels.shape[:2]:
            found, expected = (f"{width}x{height}" for height, width in (mask.shape, pixels.shape[:2]))
            raise InputError(name, f"is {found} pixels, but its image is {expected}")
        return image, torch.from_numpy(mask)


def open_images(path: Path) -> list[AlignmentImage]:
    """Find the images of a path, see the module; DataError if there are none or a tar is damaged."""
    tars = [path] if path.suffix == ".tar" else sorted(path.glob("*.tar")) or sorted((path / "train").glob("*.tar"))
    if tars:
        images = [image for tar in tars for image in _of_tar(tar)]
    elif path.is_dir():
        files = [file for file in list_media(path) if file.suffix.lower() in IMAGE_SUFFIXES]
        images = [AlignmentImage(str(file.relative_to(path)), str(file), file, file.stat().st_size) for file in files]
    else:
        raise DataError(f"{path} does not exist; give a directory of images or of tars")
    if not images:
        raise DataError(f"{path} has no images")
    return images


def _of_tar(tar: Path) -> list[AlignmentImage]:
    images: dict[str, tuple[str, TarMember]] = {}
    masks: dict[str, TarMember] = {}
    with open_tar(tar) as (_, entries):
        for entry in entries:
            key, extension = split_member(entry.name)
            if extension in (*SHARD_IMAGES, MASK):
                check_entry(entry)
            member = TarMember(tar, entry.offset, entry.size)
            if extension in SHARD_IMAGES:
                images[key] = f"{tar}/{entry.name}", member
            elif extension == MASK:
                masks[key] = member
    return [
        AlignmentImage(f"{tar.stem}/{key}", name, member, member.size, masks.get(key))
        for key, (name, member) in images.items()
    ]
