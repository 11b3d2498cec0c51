"""Search a directory of images by words.

    python examples/search_my_photos.py photos/ "a red mug"

For many images, build an index once with `pe index` and search it with `pe search`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import perception_encoder as pe

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}


def main() -> None:
    """Encode all images and one text, and print the images with the highest cosine similarity."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("text")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--model", default="builtin", help="PE-Core-L14-336 knows far more than the built-in demo")
    arguments = parser.parse_args()

    encoder = pe.load(arguments.model)
    paths = sorted(path for path in arguments.directory.rglob("*") if path.suffix.lower() in SUFFIXES)
    skipped: dict[int, pe.errors.InputError] = {}
    images = encoder.encode_images(paths, skipped=skipped)  # (n, D), unit length
    readable = [path for index, path in enumerate(paths) if index not in skipped]
    text = encoder.encode_texts(arguments.text)  # (D,), unit length

    similarity = images @ text
    for index in similarity.argsort()[::-1][: arguments.top]:
        print(f"{similarity[index]:.3f}  {readable[index]}")


if __name__ == "__main__":
    main()
