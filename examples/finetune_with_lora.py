"""Finetune a model on your own classes with LoRA, and see how well it classifies images that it was not trained on.

    python examples/finetune_with_lora.py photos/ --out runs/lora --steps 200

`photos/` has one directory for each class, named in plain words. Every fifth image of a class is held out. Needs the
extra `train` (`pip install '.[train]'`).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import perception_encoder as pe

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}


def write_table(directory: Path, table: Path) -> list[Path]:
    """Write a table of the training images with their labels; returns the held-out images."""
    held_out: list[Path] = []
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        for label in sorted(path for path in directory.iterdir() if path.is_dir()):
            images = sorted(path for path in label.iterdir() if path.suffix.lower() in SUFFIXES)
            held_out += images[::5]
            writer.writerows((image.absolute(), label.name) for image in images if image not in images[::5])
    return held_out


def accuracy(model: str | Path, images: Sequence[Path]) -> float:
    """Return the share of images whose most similar label is the name of their own directory."""
    encoder = pe.load(model)
    labels = sorted({path.parent.name for path in images})
    similarity = encoder.encode_images(images) @ encoder.encode_texts(labels).T  # (n, K)
    guesses = [labels[index] for index in similarity.argmax(axis=1)]
    return sum(guess == path.parent.name for guess, path in zip(guesses, images, strict=True)) / len(images)


def main() -> None:
    """Train adapters of rank 8, and score the model on the held-out images before and after."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/lora"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()

    table = arguments.out.with_name(f"{arguments.out.name}.csv")
    held_out = write_table(arguments.directory, table)
    trained = pe.train(
        "finetune",
        data=table,
        out=arguments.out,
        initial=arguments.model,
        lora=8,
        steps=arguments.steps,
        lr=1e-3,
        batch_size=arguments.batch_size,
        warmup=arguments.steps // 10,
    )

    print(f"before: {accuracy(arguments.model, held_out):.1%} of {len(held_out)} held-out images are classified right")
    print(f"after: {accuracy(trained.weights, held_out):.1%}")


if __name__ == "__main__":
    main()
