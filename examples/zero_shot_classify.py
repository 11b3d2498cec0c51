"""Classify images by the names of classes, without training.

python examples/zero_shot_classify.py mug.jpg dog.jpg --labels "a mug" "a dog" "a cat"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import perception_encoder as pe

TEMPLATES = ("{}", "a photo of {}.", "a drawing of {}.")


def main() -> None:
    """Average the embeddings of several prompts for each label, and print the most probable label of each image."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--labels", nargs="+", required=True)
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()

    encoder = pe.load(arguments.model)
    prompts = [template.format(label) for label in arguments.labels for template in TEMPLATES]
    texts = encoder.encode_texts(prompts).reshape(len(arguments.labels), len(TEMPLATES), -1)  # (K, templates, D)
    classes = texts.mean(axis=1)  # (K, D)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)

    images = encoder.encode_images(arguments.images)  # (n, D)
    scale = pe.published_state_dict(encoder.model)["logit_scale"].exp().item()  # learned in training, about 100
    logits = scale * images @ classes.T  # (n, K)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)

    for path, row in zip(arguments.images, probabilities, strict=True):
        print(f"{path}: {arguments.labels[row.argmax()]} ({row.max():.0%})")


if __name__ == "__main__":
    main()
