"""How well scores tell matches from non-matches in a search: cosines and probabilities, on labelled photographs.

    python -m benchmarks.calibration --photos photos [--out docs/results/calibration.json]

Queries are the names of classes, without a prompt, and names of objects that no image shows. A gallery holds the images
of half of the classes, drawn anew each time, so the names of the other half match nothing. Intervals are from
resampling queries, each with all its scores.

A search says "no match" if its best hit's probability is below a threshold. The threshold is chosen with half of the
names on the validation images; precision and recall are those of the other names on the test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import report
from perception_encoder.datasets.labelled import load_labelled
from perception_encoder.evaluation.embeddings import encode_images
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.search.storage.calibration import MATCH, background_names, fit_calibration
from synthetic.builtin.held_out import find_unseen_labels

# fmt: off
FOREIGN = (
    "elephant", "giraffe", "zebra", "whale", "octopus", "penguin", "tractor", "helicopter", "submarine", "waterfall",
    "volcano", "bathtub", "toilet", "toothbrush", "piano", "violin", "drum", "castle", "lighthouse", "windmill",
    "train", "bus", "pizza", "hamburger", "sushi", "cake", "sunset", "rainbow", "fireworks", "skateboard",
    "parachute", "sheep", "cow", "pig", "shark", "jellyfish", "snake", "spider", "bee", "sunflower", "cactus",
    "bread", "cheese", "egg", "coffee", "beer", "fork", "spoon", "refrigerator", "toaster", "sofa", "bed", "carpet",
    "candle", "newspaper", "map", "scissors", "hammer", "saw", "drill", "tent", "bridge", "beach", "mountain",
    "desert", "lightning", "dice", "kite", "sword", "crown", "syringe", "swimming pool", "christmas tree",
    "teddy bear", "traffic light", "printer", "keyboard", "bicycle", "rocket", "tank", "swan", "owl", "parrot",
    "monkey", "kangaroo", "horse",
)
# fmt: on
"""Objects that no class of the photographs is named after."""
DRAWS, FEW, HITS, BINS, RESAMPLES = 20, 200, 10, 10, 1000
WORDINGS = ("{}", "a photo of a {}.")
MIXED = "half of all classes"
WAYS, ABSENT = ("by itself", "together"), ("absent classes", "foreign names")
SOURCES = ("caltech101", "clothing", "flowers", "grocery")


@dataclass(frozen=True)
class Images:
    """Embeddings (n, D) of unit length, the label of each image (groceries have a coarse one too), and its source."""

    vectors: np.ndarray
    labels: np.ndarray
    coarse: np.ndarray
    sources: np.ndarray

    def take(self, rows: np.ndarray) -> Images:
        """Return these rows."""
        return Images(self.vectors[rows], self.labels[rows], self.coarse[rows], self.sources[rows])

    def match(self, names: Sequence[str]) -> np.ndarray:
        """Return whether each image has each name as a label, bool (Q, n)."""
        column = np.array(names)[:, None]
        return (self.labels == column) | (self.coarse == column)


def read_images(encoder: Encoder, directory: Path, split: str) -> Images:
    """All photographs of a split."""
    tasks = load_labelled(directory, split, find_unseen_labels)
    coarse = {
        key: label
        for name, task in tasks.items()
        if name.endswith("/coarse")
        for key, label in zip(task.keys, task.labels, strict=True)
    }
    vectors, keys, labels, sources = [], [], [], []
    for name, task in tasks.items():
        if not name.endswith("/coarse"):
            features = encode_images(encoder, task)
            vectors.append(features.vectors)
            keys += features.keys
            labels += features.labels
            sources += [name.partition("/")[0]] * len(features.keys)
    broad = [coarse.get(key, label) for key, label in zip(keys, labels, strict=True)]
    return Images(np.concatenate(vectors), np.array(labels), np.array(broad), np.array(sources))


def draw_galleries(images: Images, generator: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Return the rows of each gallery, by kind."""
    kinds: dict[str, list[np.ndarray]] = {MIXED: [], f"{FEW} of these images": []}
    for _ in range(DRAWS):
        rows = _half(images, np.arange(len(images.labels)), generator)
        kinds[MIXED].append(rows)
        kinds[f"{FEW} of these images"].append(generator.permutation(rows)[:FEW])
    for source in SOURCES:
        among = np.flatnonzero(images.sources == source)
        kinds[f"half of {source}"] = [_half(images, among, generator) for _ in range(DRAWS)]
    return kinds


def _half(images: Images, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    classes = generator.permutation(np.unique(images.labels[rows]))
    return rows[np.isin(images.labels[rows], classes[: len(classes) // 2])]


THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


def any_match(probabilities: np.ndarray) -> np.ndarray:
    """Return the probability that one of the best three hits is right, if they are independent, (…, K) to (…)."""
    return 1 - np.prod(1 - probabilities[..., :3], axis=-1)


@dataclass(frozen=True)
class Answers:
    """The hits of each query in one gallery."""

    scores: np.ndarray
    """Cosines of the best hits, (Q, HITS)."""
    chances: np.ndarray
    right: np.ndarray
    present: np.ndarray
    """Whether the gallery holds a match, (Q,)."""
    pairs: dict[str, np.ndarray]
    """By kind of score: see `cross_auc`."""


def search(queries: np.ndarray, names: Sequence[str], gallery: Images, background: np.ndarray, scale: float) -> Answers:
    """Search one gallery for all queries (Q, D)."""
    cosines, match = queries @ gallery.vectors.T, gallery.match(names)
    calibration = fit_calibration([gallery.vectors], background, scale)
    if calibration is None:
        raise SystemExit("the model's scores do not separate these images")
    best = np.argsort(-cosines, axis=1)[:, :HITS]
    scores = np.take_along_axis(cosines, best, axis=1)
    others = np.log(np.exp(scale * (background @ gallery.vectors.T)).sum(axis=0))
    mean, deviation = cosines.mean(axis=1, keepdims=True), cosines.std(axis=1, keepdims=True)
    kinds = {
        "cosine, and the probability by it": cosines,
        "cosine, standardised over the gallery": (cosines - mean) / deviation,
        "softmax against the background": scale * cosines - others,
    }
    pairs = {kind: cross_auc(values, match) for kind, values in kinds.items()}
    right = np.take_along_axis(match, best, axis=1)
    return Answers(scores, calibration.probabilities(scores), right, match.any(axis=1), pairs)


def cross_auc(scores: np.ndarray, match: np.ndarray) -> np.ndarray:
    """AUC of each query's matches against each query's other images: (Q, n) to (Q, Q), 0 for one without matches."""
    counts = match.sum(axis=1)
    matches, ends = scores[match], np.cumsum(counts)
    areas = np.zeros((len(scores),) * 2)
    for column, (values, right) in enumerate(zip(scores, match, strict=True)):
        others = np.sort(values[~right])
        below = np.searchsorted(others, matches, "left") + np.searchsorted(others, matches, "right")
        total = np.concatenate([[0], np.cumsum(below / (2 * len(others)))])
        areas[:, column] = (total[ends] - total[ends - counts]) / np.maximum(counts, 1)
    return areas


def auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """AUC of queries with scores (Q,), by their weights as positives and as negatives (R, Q): (R,)."""
    above = (scores[:, None] > scores) + (scores[:, None] == scores) / 2
    return ((positive @ above) * negative).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))


def pair_scores(answers: Answers, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AUC of match against no-match over pairs of a query and an image; every query counts alike."""
    scores = {}
    present = weights * answers.present  # (R, Q)
    for kind, pairs in answers.pairs.items():
        scores[f"by itself: {kind}"] = present @ np.diag(pairs) / present.sum(axis=1)
        together = ((present @ pairs) * weights).sum(axis=1)
        scores[f"together: {kind}"] = together / (present.sum(axis=1) * weights.sum(axis=1))
    return scores


def nothing_scores(answers: Answers, foreign: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """How well the scores separate queries with a match from queries without one."""
    matched, present = any_match(answers.chances), weights * answers.present
    scores = {}
    for against, absent in zip(ABSENT, (~answers.present & ~foreign, foreign), strict=True):
        before, after = (auc(values, present, weights * absent) for values in (answers.scores[:, 0], matched))
        scores |= {f"{against}: cosine": before, f"{against}: probability": after}
        scores[f"{against}: difference"] = after - before
    return scores


def no_match_scores(answers: Answers, foreign: np.ndarray, weights: np.ndarray, threshold: float) -> dict[str, Any]:
    """How well "no match" is said below a threshold; precision is as if half of the queries had no answer."""
    silent, right = answers.chances[:, 0] < threshold, answers.right & (answers.chances >= threshold)
    present, absent = weights * answers.present, weights * ~answers.present
    false, recall = (part @ silent / part.sum(axis=1) for part in (present, absent))
    scores = {"recall": recall, "precision": recall / (recall + false), "wrong": false}
    for kind, some in zip(ABSENT, (absent * ~foreign, absent * foreign), strict=True):
        scores[f"recall, {kind}"] = some @ silent / some.sum(axis=1)
    shown, hits = (answers.chances >= threshold).sum(axis=1), answers.right.sum(axis=1)
    scores["right hits kept"] = weights @ right.sum(axis=1) / (weights @ hits)
    scores["shown hits right"] = weights @ right.sum(axis=1) / (weights @ shown)
    scores["all hits right"] = weights @ hits / (weights.sum(axis=1) * answers.right.shape[1])
    return {f"no match: {name}": value for name, value in scores.items()}


def choose_threshold(answers: Sequence[Answers], foreign: np.ndarray, chosen: np.ndarray) -> list[dict[str, float]]:
    """Return the balanced accuracy of "no match" by each threshold, over some galleries and the `chosen` queries."""
    rows = []
    for threshold in THRESHOLDS:
        with np.errstate(invalid="ignore"):  # a gallery may hold no answer to any of these queries
            each = [no_match_scores(one, foreign, chosen[None].astype(float), threshold) for one in answers]
        recall, wrong = (float(np.nanmean([one[f"no match: {name}"] for one in each])) for name in ("recall", "wrong"))
        rows.append({"threshold": threshold, "recall": recall, "wrong": wrong, "balanced": (recall + 1 - wrong) / 2})
    return rows


def reliability(chances: np.ndarray, right: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Brier score, that of the best constant, and expected calibration error, of chances (Q, n): (R,) each."""
    weights = weights / weights.sum(axis=1, keepdims=True)
    base = weights @ right.mean(axis=1)
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    gaps = np.stack([((chances - right) * (bins == number)).mean(axis=1) for number in range(BINS)], axis=1)
    error = np.abs(weights @ gaps).sum(axis=1)
    return {"Brier": weights @ ((chances - right) ** 2).mean(axis=1), "constant": base * (1 - base), "error": error}


def curve(chances: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Predicted beside observed, in equal bins."""
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    parts = [bins == number for number in range(BINS)]
    return [
        {"n": int(part.sum()), "predicted": float(chances[part].mean()), "observed": float(right[part].mean())}
        for part in parts
        if part.any()
    ]


def summarize(
    answers: Sequence[Answers], foreign: np.ndarray, held_out: np.ndarray, generator: np.random.Generator
) -> dict[str, Any]:
    """All scores of galleries of one kind, with intervals; those of "no match" by `held_out` queries."""
    count = len(foreign)
    weights = np.concatenate([np.ones((1, count)), generator.multinomial(count, np.full(count, 1 / count), RESAMPLES)])
    with np.errstate(invalid="ignore"):  # a resample that leaves a gallery no query with a match has no AUC there
        each = [
            pair_scores(one, weights)
            | nothing_scores(one, foreign, weights)
            | no_match_scores(one, foreign, weights * held_out, MATCH)
            for one in answers
        ]
    scores = {name: np.nanmean([draw[name] for draw in each], axis=0) for name in each[0]}
    chances, right = (np.concatenate([getattr(one, name) for one in answers], axis=1) for name in ("chances", "right"))
    matched = np.stack([any_match(one.chances) for one in answers], axis=1)  # (Q, draws)
    present = np.stack([one.present for one in answers], axis=1)
    for name, (predicted, observed) in {"hits": (chances, right), "queries": (matched, present)}.items():
        scores |= {f"{name}: {part}": value for part, value in reliability(predicted, observed, weights).items()}
    return {
        "scores": {
            name: {"value": float(values[0]), "interval": np.nanpercentile(values[1:], (2.5, 97.5)).tolist()}
            for name, values in scores.items()
        },
        "hits": curve(chances, right),
        "queries": curve(matched, present),
    }


def measure(
    encoder: Encoder, images: Images, validation: Images
) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """The scores for each wording of the queries and each kind of gallery, and of each threshold in validation."""
    if encoder.logit_scale is None:
        raise SystemExit(f"{encoder.name} has no text tower")
    classes = sorted({*images.labels.tolist(), *images.coarse.tolist()})
    names, foreign = [*classes, *FOREIGN], np.arange(len(classes) + len(FOREIGN)) >= len(classes)
    held_out = np.random.default_rng(1).permutation(len(names)) % 2 == 0
    background, scale = encoder.encode_texts(background_names()), encoder.logit_scale
    results, trials = [], []
    for wording in WORDINGS:
        queries = encoder.encode_texts([wording.format(name) for name in names])

        def answer(images: Images, galleries: Sequence[np.ndarray], queries: np.ndarray = queries) -> list[Answers]:
            return [search(queries, names, images.take(rows), background, scale) for rows in galleries]

        for galleries in draw_galleries(validation, np.random.default_rng(0)).values():
            trials += answer(validation, galleries)
        generator = np.random.default_rng(0)
        for kind, galleries in draw_galleries(images, generator).items():
            answers = answer(images, galleries)
            size = int(np.mean([len(rows) for rows in galleries]))
            about = {"wording": wording, "gallery": kind, "images": size, "queries_absent": len(FOREIGN)}
            results.append(about | summarize(answers, foreign, held_out, generator))
            print(f"measured {wording!r}, {kind}", flush=True)
    return results, choose_threshold(trials, foreign, ~held_out)


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="directory with test.tar and the other splits")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    encoder = load(arguments.model)
    images, validation = (read_images(encoder, arguments.photos, split) for split in ("test", "val"))
    measured, thresholds = measure(encoder, images, validation)
    result = {
        "command": "python -m benchmarks.calibration --photos photos",
        "model": encoder.name,
        "weights": encoder.weight_hash,
        "dtype": encoder.runtime.precision,
        "images": len(images.labels),
        "match": MATCH,
        "thresholds": thresholds,
        "measured": measured,
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
