"""Finetune a model on your own classes with LoRA, and see how well it separates them before and after.

    python examples/finetune_with_lora.py photos/ --out runs/lora --steps 200

`photos/` has one directory for each class, named in plain words. Needs the extra `train` (`pip install '.[train]'`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import perception_encoder as pe

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}


def accuracy(model: str | Path, directory: Path) -> float:
    """Return the share of images whose most similar label is the name of their own directory."""
    encoder = pe.load(model)
    paths = sorted(path for path in directory.glob("*/*") if path.suffix.lower() in SUFFIXES)
    labels = sorted({path.parent.name for path in paths})
    similarity = encoder.encode_images(paths) @ encoder.encode_texts(labels).T  # (n, K)
    guesses = [labels[index] for index in similarity.argmax(axis=1)]
    return sum(guess == path.parent.name for guess, path in zip(guesses, paths, strict=True)) / len(paths)


def main() -> None:
    """Train adapters of rank 8, and score the model on the training images before and after."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/lora"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()

    trained = pe.train(
        "finetune",
        data=arguments.directory,
        out=arguments.out,
        initial=arguments.model,
        lora=8,
        steps=arguments.steps,
        lr=1e-3,
        batch_size=arguments.batch_size,
        warmup=arguments.steps // 10,
    )

    print(f"before: {accuracy(arguments.model, arguments.directory):.1%} of the training images are classified right")
    print(f"after: {accuracy(trained.weights, arguments.directory):.1%}")


if __name__ == "__main__":
    main()
