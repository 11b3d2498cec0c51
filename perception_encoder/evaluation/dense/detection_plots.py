"""Plot a detector's precision over recall, and which classes it confuses, as faster-coco-eval computes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.errors import needs_extra
from perception_encoder.evaluation.dense.average_precision import counted_results
from perception_encoder.files import replacing, writing

OVERLAP, CONFIDENT = 0.5, 0.25
"""Minimum IoU of a correct detection, and minimum score of those in the confusion matrix."""
LISTED = 30
"""Maximum number of classes whose names and counts fit into a plot."""
BACKGROUND = "background"


def write_detection_plots(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], directory: Path, lvis: bool = False
) -> None:
    """Write precision_recall.png and confusion_matrix.png of boxes in COCO's format (LVIS's if `lvis`).

    There must be an object. Raises OutputError, and MissingExtraError without faster-coco-eval or matplotlib.
    """
    with needs_extra("eval", "faster-coco-eval"):
        from faster_coco_eval import COCO
        from faster_coco_eval.extra import Curves, PreviewResults
    known = COCO(truth, use_deepcopy=True)
    found = known.loadRes([dict(result) for result in counted_results(truth, results, lvis)])
    names = {category["id"]: str(category.get("name", category["id"])) for category in truth["categories"]}
    _plot_curves(Curves(known, found, "bbox", iou_tresh=OVERLAP, useCats=True).build_curve(""), names, directory)
    counts = PreviewResults(known, found, "bbox", CONFIDENT, OVERLAP).compute_confusion_matrix()  # (K, K + 2)
    square = np.pad(counts[:, :-2], (0, 1))
    square[-1, :-1], square[:-1, -1] = counts[:, -2], counts[:, -1]  # detections of nothing, and missed objects
    _plot_confusion(square, list(names.values()), directory)


def _plot_curves(curves: Sequence[dict[str, Any]], names: dict[int, str], directory: Path) -> None:
    figure, axes = _figure(6.0)
    listed = len(curves) <= 10
    for curve in curves:
        label = names[curve["category_id"]] if listed else None
        axes.plot(curve["recall_list"], curve["precision_list"], linewidth=1, alpha=1 if listed else 0.2, label=label)
    mean = np.mean([curve["precision_list"] for curve in curves], axis=0)
    label = f"all classes, AP50 {100 * mean.mean():.1f}"
    axes.plot(curves[0]["recall_list"], mean, linewidth=3, color="black", label=label)
    axes.set(xlabel="recall", ylabel=f"precision at IoU {OVERLAP}", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower left")
    _write(figure, directory / "precision_recall.png")


def _plot_confusion(counts: np.ndarray, names: Sequence[str], directory: Path) -> None:
    listed = len(names) <= LISTED
    figure, axes = _figure(4 + 0.4 * len(counts) if listed else 12.0)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if listed:
        ticks = range(len(counts))
        axes.set_xticks(ticks, [*names, BACKGROUND], rotation=90)
        axes.set_yticks(ticks, [*names, BACKGROUND])
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour)
    axes.set(xlabel=f"detected, score ≥ {CONFIDENT}, IoU ≥ {OVERLAP}", ylabel="object")
    _write(figure, directory / "confusion_matrix.png")


def _figure(side: float) -> tuple[Any, Any]:
    with needs_extra("plot", "matplotlib"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(side, side), layout="constrained")
    return figure, figure.add_subplot()


def _write(figure: Any, path: Path) -> None:
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
