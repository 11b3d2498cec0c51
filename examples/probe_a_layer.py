"""Find the layer whose features separate your classes best, with a linear probe on each layer.

    python examples/probe_a_layer.py photos/ --layers 2 5 8 11

`photos/` has one directory for each class. Needs scikit-learn (`pip install '.[eval]'`). `pe layers` does this for many
tasks, with confidence intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import perception_encoder as pe

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp"}


def main() -> None:
    """Cross-validate a logistic regression on the mean patch token of each layer, and print its accuracy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[5, 8, 11], help="counted from 0")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--model", default="builtin")
    arguments = parser.parse_args()

    paths = sorted(path for path in arguments.directory.glob("*/*") if path.suffix.lower() in SUFFIXES)
    labels = [path.parent.name for path in paths]
    encoder = pe.load(arguments.model)
    for layer in arguments.layers:
        features = encoder.encode_images(paths, layer=layer, pool="mean")  # (n, D)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        accuracy = cross_val_score(probe, features, labels, cv=arguments.folds)
        print(f"layer {layer}: accuracy {accuracy.mean():.1%}")


if __name__ == "__main__":
    main()
