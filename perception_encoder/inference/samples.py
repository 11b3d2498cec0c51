"""Sample images for the demo: photographs from scikit-image, and a clip made from one of them.

scikit-image's documentation names their origins and licences. The motorcycles are a stereo pair (Middlebury 2014,
Scharstein and others): the left view becomes the clip, the right one a query.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from perception_encoder.errors import DataError, needs_extra
from perception_encoder.files import make_directory, replacing, writing
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.video_file import write_video

IMAGES = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
"""Photographs, by scikit-image's file names; its drawings, textures and micrographs are left out."""
CLIP, CLIP_SOURCE = "motorcycle.mp4", "motorcycle_left.png"
"""A clip and the photograph that it pans over."""
QUERY = "motorcycle_right.png"
"""The scene of the clip, from a second camera."""

# fmt: off
LABELS = (
    "astronaut", "camera", "ginger cat", "cup of coffee", "old coins", "night sky", "moon", "newspaper",
    "orange circle", "rocket", "motorbike", "pizza", "bicycle", "airplane", "tree", "banana", "umbrella",
    "sailing boat", "bus", "piano",
)
# fmt: on
"""Names of the objects in the samples, and of nine others."""
QUERIES = ("a ginger cat", "a newspaper", "old coins", "a camera", "a motorbike")
"""Texts to search for."""

_RATE, _SECONDS, _WINDOW = 15, 4, (480, 360)


def write_samples(directory: Path) -> tuple[Path, Path]:
    """Copy the photographs to `DIR/images` and the query beside it, and write the clip; return these two paths.

    Raises MissingExtraError or DataError without scikit-image's images, OutputError if DIR cannot be written.
    """
    with needs_extra("demo", "scikit-image"):
        import skimage
    source = Path(skimage.__file__).parent / "data"
    missing = [name for name in (*IMAGES, CLIP_SOURCE, QUERY) if not (source / name).is_file()]
    if missing:
        raise DataError(f"this scikit-image lacks {', '.join(missing)}; install scikit-image 0.26")
    gallery, query = directory / "images", directory / QUERY
    with writing(directory):
        make_directory(gallery)
        for image in (*(gallery / name for name in IMAGES), query):
            with replacing(image) as temporary:
                shutil.copyfile(source / image.name, temporary)
        write_pan(source / CLIP_SOURCE, gallery / CLIP)
    return gallery, query


def write_pan(image: Path, clip: Path) -> None:
    """Write a four-second MP4 that pans from an image's left side to its right."""
    opened = open_image(image).convert("RGB")
    width, height = _WINDOW
    room = (opened.width - width, (opened.height - height) // 2)
    count = _RATE * _SECONDS
    with write_video(clip, _WINDOW, _RATE) as add:
        for index in range(count):
            left = room[0] * index // (count - 1)
            add(opened.crop((left, room[1], left + width, room[1] + height)))
