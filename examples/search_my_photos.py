"""Search a directory of images and videos by words.

    python examples/search_my_photos.py photos/ "a red mug"

The first call writes an index to photos/.pe-index; later ones read new and changed files only. Needs the extra
`search`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import perception_encoder as pe


def main() -> None:
    """Update the index, and print the hits with the highest cosine similarity."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("text")
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--model", default="builtin", help="PE-Core-L14-336 knows far more than the built-in demo")
    arguments = parser.parse_args()

    index = pe.open_index(arguments.directory, arguments.model)
    index.update()
    for hit in index.search({arguments.text: 1.0}, top=arguments.top):
        print(f"{hit.score:.3f}  {hit.path}")


if __name__ == "__main__":
    main()
