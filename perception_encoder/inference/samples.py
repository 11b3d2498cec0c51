"""Sample images for the demo: photographs from scikit-image, and a clip that pans over four of them.

scikit-image's documentation names their origins and licences. The motorcycles are a stereo pair (Middlebury 2014,
Scharstein and others): the left view is searched, the right one is a query.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from perception_encoder.errors import DataError, needs_extra
from perception_encoder.files import make_directory, replacing, writing
from perception_encoder.preprocess.video_file import write_video
from perception_encoder.words.reader import can_read_words

IMAGES = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
"""Photographs, by scikit-image's file names; its drawings, textures and micrographs are left out."""
CLIP, SCENES = "clip.mp4", ("coins.png", "chelsea.png", "motorcycle_left.png", "page.png")
"""A clip and the photographs that it pans over, four seconds each."""
QUERY = "motorcycle_right.png"
"""The motorcycle from a second camera, to search by."""
QUERIES = ("ancient coins", "a ginger cat", "a motorbike", "paper")
"""Texts to search for, each the subject of a photograph and of the clip's scene with the same number."""
WORDS, NAME = '"region-based segmentation"', '"deep field"'
"""Words in the photograph `page.png`, and words of the name `hubble_deep_field.jpg`."""

_RATE, _SECONDS, _WINDOW = 15, 4, (480, 360)


def write_samples(directory: Path) -> tuple[Path, Path]:
    """Copy the photographs to `DIR/images` and the query beside it, and write the clip; return these two paths.

    Raises MissingExtraError or DataError without scikit-image's images, OutputError if DIR cannot be written.
    """
    with needs_extra("demo", "scikit-image"):
        import skimage
    source = Path(skimage.__file__).parent / "data"
    missing = [name for name in (*IMAGES, QUERY) if not (source / name).is_file()]
    if missing:
        raise DataError(f"this scikit-image lacks {', '.join(missing)}; install scikit-image 0.26")
    gallery, query = directory / "images", directory / QUERY
    with writing(directory):
        make_directory(gallery)
        for image in (*(gallery / name for name in IMAGES), query):
            with replacing(image) as temporary:
                shutil.copyfile(source / image.name, temporary)
        write_pans([gallery / name for name in SCENES], gallery / CLIP)
    return gallery, query


def quoted_query() -> str:
    """Return words in a photograph if they can be read, else words of a name."""
    return WORDS if can_read_words() else NAME


def write_pans(images: Sequence[Path], clip: Path) -> None:
    """Write an MP4 that pans over each image for four seconds, from its top left to its bottom right."""
    with write_video(clip, _WINDOW, _RATE) as add:
        for image in images:
            with Image.open(image) as stored:
                opened = stored.convert("RGB")
            scale = min(opened.width / _WINDOW[0], opened.height / _WINDOW[1])
            width, height = scale * _WINDOW[0], scale * _WINDOW[1]
            for share in np.linspace(0, 1, _RATE * _SECONDS):
                left, top = share * (opened.width - width), share * (opened.height - height)
                add(opened.resize(_WINDOW, box=(left, top, left + width, top + height)))
