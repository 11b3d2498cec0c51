"""Classify images by the names of classes, without training.

python examples/zero_shot_classify.py mug.jpg dog.jpg --labels "a mug" "a dog" "a cat"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import perception_encoder as pe


def main() -> None:
    """Print the most probable label of each image."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--labels", nargs="+", required=True)
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()

    for file in pe.classify(arguments.images, arguments.labels, model=arguments.model):
        best = file.labels[0]
        print(f"{file.path}: {best.label} ({best.probability:.0%})")


if __name__ == "__main__":
    main()
