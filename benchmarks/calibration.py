"""How well a search says what matches and that nothing does: cosines beside calibrated scores, on labelled photographs.

    python -m benchmarks.calibration --photos photos [--split test] [--out docs/results/calibration.json]

Queries are the names of classes, as they are typed, and names of things that no picture shows. A gallery holds the
pictures of one half of the classes, drawn anew each time, so that the other half's names match nothing. Intervals are
from resampling queries, with all that belongs to them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from benchmarks.results import report
from perception_encoder.datasets.labelled import load_labelled
from perception_encoder.evaluation.features import encode_images
from perception_encoder.inference.encoder import Encoder, load
from perception_encoder.models.clip import CLIP
from perception_encoder.pretraining.builtin.held_out import find_unseen_labels
from perception_encoder.search.index.calibration import background_names, fit_calibration

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
"""Things that no class of the photographs is called after."""
DRAWS, FEW, HITS, BINS, RESAMPLES = 20, 200, 10, 10, 1000
WORDINGS = ("{}", "a photo of a {}.")
MIXED = "half of all classes"
WAYS, ABSENT = ("by itself", "together"), ("absent classes", "foreign things")
SOURCES = ("caltech101", "clothing", "flowers", "grocery")


@dataclass(frozen=True)
class Pictures:
    """Unit vectors (n, D), what each picture shows (a label, and of groceries a coarse one too), and its source."""

    vectors: np.ndarray
    labels: np.ndarray
    coarse: np.ndarray
    sources: np.ndarray

    def take(self, rows: np.ndarray) -> Pictures:
        """Some of them."""
        return Pictures(self.vectors[rows], self.labels[rows], self.coarse[rows], self.sources[rows])

    def match(self, names: Sequence[str]) -> np.ndarray:
        """Whether each picture shows what each name says, bool (Q, n)."""
        column = np.array(names)[:, None]
        return (self.labels == column) | (self.coarse == column)


def read_pictures(encoder: Encoder, folder: Path, split: str) -> Pictures:
    """All photographs of a split."""
    tasks = load_labelled(folder, split, find_unseen_labels)
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
    return Pictures(np.concatenate(vectors), np.array(labels), np.array(broad), np.array(sources))


def draw_galleries(pictures: Pictures, generator: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Rows of galleries, by their kind."""
    kinds: dict[str, list[np.ndarray]] = {MIXED: [], f"{FEW} of these pictures": []}
    for _ in range(DRAWS):
        rows = _half(pictures, np.arange(len(pictures.labels)), generator)
        kinds[MIXED].append(rows)
        kinds[f"{FEW} of these pictures"].append(generator.permutation(rows)[:FEW])
    for source in SOURCES:
        among = np.flatnonzero(pictures.sources == source)
        kinds[f"half of {source}"] = [_half(pictures, among, generator) for _ in range(DRAWS)]
    return kinds


def _half(pictures: Pictures, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    classes = generator.permutation(np.unique(pictures.labels[rows]))
    return rows[np.isin(pictures.labels[rows], classes[: len(classes) // 2])]


NOTHING_BELOW = 0.25
"""A chance of any match below which a verdict would be given: three to one against."""


def any_match(probabilities: np.ndarray) -> np.ndarray:
    """The chance that at least one of a query's best three hits is right, (…, K) to (…), taken for independent."""
    return 1 - np.prod(1 - probabilities[..., :3], axis=-1)


@dataclass(frozen=True)
class Found:
    """What a search of one gallery gives for each query."""

    scores: np.ndarray
    """Cosines of the best hits, (Q, HITS)."""
    chances: np.ndarray
    right: np.ndarray
    present: np.ndarray
    """Whether the gallery holds a match, (Q,)."""
    pairs: dict[str, np.ndarray]
    """By kind of score: see `cross_auc`."""


def search(queries: np.ndarray, names: Sequence[str], gallery: Pictures, background: np.ndarray, scale: float) -> Found:
    """Search one gallery for all queries (Q, D)."""
    cosines, match = queries @ gallery.vectors.T, gallery.match(names)
    calibration = fit_calibration([gallery.vectors], background, scale)
    if calibration is None:
        raise SystemExit("the model's scores say nothing of these pictures")
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
    return Found(scores, calibration.probabilities(scores), right, match.any(axis=1), pairs)


def cross_auc(scores: np.ndarray, match: np.ndarray) -> np.ndarray:
    """AUC of each query's matches against each query's other pictures: (Q, n) to (Q, Q), 0 for one without matches."""
    counts = match.sum(axis=1)
    matches, ends = scores[match], np.cumsum(counts)
    found = np.zeros((len(scores),) * 2)
    for column, (values, right) in enumerate(zip(scores, match, strict=True)):
        others = np.sort(values[~right])
        below = np.searchsorted(others, matches, "left") + np.searchsorted(others, matches, "right")
        total = np.concatenate([[0], np.cumsum(below / (2 * len(others)))])
        found[:, column] = (total[ends] - total[ends - counts]) / np.maximum(counts, 1)
    return found


def auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """AUC of queries with scores (Q,), by their weights as positives and as negatives (R, Q): (R,)."""
    above = (scores[:, None] > scores) + (scores[:, None] == scores) / 2
    return ((positive @ above) * negative).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))


def pair_figures(found: Found, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AUC of match against no-match over pairs of a query and a picture, every query counting alike."""
    told = {}
    present = weights * found.present  # (R, Q)
    for kind, pairs in found.pairs.items():
        told[f"by itself: {kind}"] = present @ np.diag(pairs) / present.sum(axis=1)
        together = ((present @ pairs) * weights).sum(axis=1)
        told[f"together: {kind}"] = together / (present.sum(axis=1) * weights.sum(axis=1))
    return told


def nothing_figures(found: Found, foreign: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """How well queries that something matches are told from those that nothing does."""
    matched, present = any_match(found.chances), weights * found.present
    said = matched < NOTHING_BELOW
    told = {"said: present": present @ said / present.sum(axis=1)}
    told["said rightly"] = (weights * ~found.present) @ said / np.maximum(weights @ said, 1)
    for against, absent in zip(ABSENT, (~found.present & ~foreign, foreign), strict=True):
        before, after = (auc(values, present, weights * absent) for values in (found.scores[:, 0], matched))
        told |= {f"{against}: cosine": before, f"{against}: probability": after}
        told[f"{against}: difference"] = after - before
        told[f"said: {against}"] = (weights * absent) @ said / (weights @ absent)
    return told


def reliability(chances: np.ndarray, right: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Brier score, that of the best constant, and expected calibration error, of chances (Q, n): (R,) each."""
    weights = weights / weights.sum(axis=1, keepdims=True)
    base = weights @ right.mean(axis=1)
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    gaps = np.stack([((chances - right) * (bins == place)).mean(axis=1) for place in range(BINS)], axis=1)
    error = np.abs(weights @ gaps).sum(axis=1)
    return {"Brier": weights @ ((chances - right) ** 2).mean(axis=1), "constant": base * (1 - base), "error": error}


def curve(chances: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Predicted beside observed, in equal bins."""
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    parts = [bins == place for place in range(BINS)]
    return [
        {"n": int(part.sum()), "predicted": float(chances[part].mean()), "observed": float(right[part].mean())}
        for part in parts
        if part.any()
    ]


def figures(found: Sequence[Found], foreign: np.ndarray, generator: np.random.Generator) -> dict[str, Any]:
    """All figures of galleries of one kind, with intervals."""
    count = len(foreign)
    weights = np.concatenate([np.ones((1, count)), generator.multinomial(count, np.full(count, 1 / count), RESAMPLES)])
    with np.errstate(invalid="ignore"):  # a resample that leaves a gallery no query with a match has no AUC there
        each = [pair_figures(one, weights) | nothing_figures(one, foreign, weights) for one in found]
    told = {name: np.nanmean([figure[name] for figure in each], axis=0) for name in each[0]}
    chances, right = (np.concatenate([getattr(one, name) for one in found], axis=1) for name in ("chances", "right"))
    matched = np.stack([any_match(one.chances) for one in found], axis=1)  # (Q, draws)
    present = np.stack([one.present for one in found], axis=1)
    for name, (predicted, observed) in {"hits": (chances, right), "queries": (matched, present)}.items():
        told |= {f"{name}: {part}": value for part, value in reliability(predicted, observed, weights).items()}
    return {
        "figures": {
            name: {"value": float(values[0]), "ci": np.nanpercentile(values[1:], (2.5, 97.5)).tolist()}
            for name, values in told.items()
        },
        "hits": curve(chances, right),
        "queries": curve(matched, present),
    }


def measure(encoder: Encoder, pictures: Pictures) -> list[dict[str, Any]]:
    """The figures for each wording of the queries and each kind of gallery."""
    if not isinstance(encoder.model, CLIP):
        raise SystemExit(f"{encoder.name} has no text tower")
    classes = sorted({*pictures.labels.tolist(), *pictures.coarse.tolist()})
    names, foreign = [*classes, *FOREIGN], np.arange(len(classes) + len(FOREIGN)) >= len(classes)
    background, scale = encoder.encode_texts(background_names()), math.exp(float(encoder.model.logit_scale.detach()))
    told = []
    for wording in WORDINGS:
        queries = encoder.encode_texts([wording.format(name) for name in names])
        generator = np.random.default_rng(0)
        for kind, galleries in draw_galleries(pictures, generator).items():
            found = [search(queries, names, pictures.take(rows), background, scale) for rows in galleries]
            size = int(np.mean([len(rows) for rows in galleries]))
            about = {"wording": wording, "gallery": kind, "pictures": size, "queries_absent": len(FOREIGN)}
            told.append(about | figures(found, foreign, generator))
            print(f"measured {wording!r}, {kind}", flush=True)
    return told


def _share(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.3f} ({figure['ci'][0]:.3f}–{figure['ci'][1]:.3f})"


def _percent(figure: dict[str, Any]) -> str:
    return f"{100 * figure['value']:.0f} %"


def bias(bins: Sequence[dict[str, float]]) -> float:
    """The mean of predicted less observed over what the bins of `curve` hold."""
    return sum(part["n"] * (part["predicted"] - part["observed"]) for part in bins) / sum(part["n"] for part in bins)


COLUMNS = (
    "gallery",
    "images",
    "AUC of a match against absent classes",
    "against foreign names",
    "says nothing matches: of present",
    "of absent",
    "of foreign",
    "hits: predicted − observed",
    "hits: Brier (constant)",
    "queries: predicted − observed",
    "queries: Brier (constant)",
)


def table(measured: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each kind of gallery, the smallest first."""
    lines = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS))]
    for one in measured:
        told = one["figures"]
        cells = [one["gallery"], f"{one['pictures']:,}", *(_share(told[f"{what}: probability"]) for what in ABSENT)]
        cells += [_percent(told[f"said: {what}"]) for what in ("present", *ABSENT)]
        for what in ("hits", "queries"):
            brier, constant = (told[f"{what}: {part}"]["value"] for part in ("Brier", "constant"))
            cells += [_signed(bias(one[what])), f"{brier:.3f} ({constant:.3f})"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def findings(measured: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What the table shows of predicted and observed, in words; `measured` ascends by size."""
    gaps = [bias(one["queries"]) for one in measured]
    monotone = gaps in (sorted(gaps), sorted(gaps, reverse=True))
    yield (
        f"For queries (whether anything matches), the mean of predicted less observed is {_signed(min(gaps))} to "
        f"{_signed(max(gaps))}, and {'' if monotone else 'not '}monotone in the gallery's size."
    )
    largest = measured[-1]["hits"]
    far = max(largest, key=lambda part: abs(part["predicted"] - part["observed"]))
    yield (
        f"For hits in the largest gallery it is {_signed(bias(largest))}: their probabilities are too "
        f"{'low' if bias(largest) < 0 else 'high'} (in the worst bin {far['predicted']:.2f} predicted, "
        f"{far['observed']:.2f} observed)."
    )
    worse = [
        one["gallery"]
        for one in measured
        if one["figures"]["queries: Brier"]["ci"][0] > one["figures"]["queries: constant"]["ci"][1]
    ]
    if worse:
        yield f"For queries the Brier score is worse than that of the best constant in {' and '.join(worse)}."


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def page(result: dict[str, Any]) -> str:
    """The results page of a run's JSON: its first wording; the JSON has both, the other scores and the bins."""
    measured = sorted(
        (each for each in result["measured"] if each["wording"] == WORDINGS[0]), key=lambda each: each["pictures"]
    )
    text = (
        f"Written by `{result['command']}`: {result['model']} (weights {result['weights']}, {result['dtype']}), "
        f"{result['pictures']:,} labelled photographs of the `{result['split']}` split. Queries are the names of the "
        f"classes, as they are typed, and {len(FOREIGN)} names of things that are no class (foreign). A gallery holds "
        f"half of the classes, drawn {DRAWS} times; the other classes are absent. Calibration sees the gallery's "
        "vectors and no label. Intervals (95 %) are from resampling queries; the model was trained once, and all "
        f"choices were made on the `val` split. Hits are the best {HITS} of each query. The verdict that nothing "
        f"matches is given below a probability of {result['nothing_below']}; `pe search` gives none. "
        f"{' '.join(findings(measured))} "
        "Another wording, other scores and the bins are in the JSON."
    )
    lines = ["# Scores and probabilities", "", *wrap(text, 118, break_on_hyphens=False), "", *table(measured)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the JSON and its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder with test.tar and the other splits")
    parser.add_argument("--split", default="test", choices=("test", "val"))
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--out", type=Path, help="JSON to write; its page is written beside it")
    arguments = parser.parse_args()
    encoder = load(arguments.model)
    pictures = read_pictures(encoder, arguments.photos, arguments.split)
    result = {
        "command": f"python -m benchmarks.calibration --photos photos --split {arguments.split}",
        "model": encoder.name,
        "weights": encoder.weight_hash,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "split": arguments.split,
        "pictures": len(pictures.labels),
        "nothing_below": NOTHING_BELOW,
        "measured": measure(encoder, pictures),
    }
    report(result, page, arguments.out)


if __name__ == "__main__":
    main()
