"""Detection by Mask R-CNN over one frozen layer (section 3): box and mask AP, as COCO or LVIS define them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from perception_encoder.datasets.instances import InstanceSet
from perception_encoder.dense_prediction.detection import Detected, DetectionConfig, fit_detector
from perception_encoder.dense_prediction.head_fitting import Maps, take
from perception_encoder.errors import InputError, MissingExtraError
from perception_encoder.evaluation.dense.average_precision import average_precision
from perception_encoder.evaluation.dense.features import check_finite, encode_both
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.estimate import check_scipy
from perception_encoder.evaluation.statistics.resampling import HEAD_SEEDS
from perception_encoder.evaluation.statistics.scores import DrawnScores, check_head_seeds, measure_all, with_head_seeds
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.progress import Track, untracked


@dataclass(frozen=True, kw_only=True)
class DetectionProtocol:
    """How detection is measured."""

    head: DetectionConfig = field(default_factory=DetectionConfig)
    head_seeds: int = HEAD_SEEDS
    """Detectors that are fitted, each with another seed; with one there is no interval."""
    image_size: tuple[int, int] | None = None
    """Height and width that pictures are squashed to; the encoder's own by default."""

    def __post_init__(self) -> None:
        check_head_seeds(self.head_seeds)


def measure_detection(
    encoder: LayerEncoder,
    layer: int,
    train: InstanceSet,
    test: InstanceSet,
    protocol: DetectionProtocol | None = None,
    track: Track = untracked,
) -> tuple[tuple[Measurement, ...], tuple[InputError, ...]]:
    """Fit a detector on one layer's features of `train`, and measure it on `test`.

    Pictures that cannot be decoded are left out, and their errors returned. Raises DataError where none is left or
    there is no thing, ConfigError for a layer that does not exist, and ModelError for features that are not finite.
    """
    protocol = protocol or DetectionProtocol()
    check_scipy()
    sets = (train, train.things), (test, test.things)
    learned, shown = encode_both(encoder, layer, *sets, protocol.image_size, track)
    scores = score_detection(learned.maps, (train, learned.rows), shown.maps, (test, shown.rows), protocol, track)
    least_score, most = protocol.head.limits(train.lvis)
    settings = {"layer": str(layer), "train": str(len(learned.rows)), "channels": str(protocol.head.channels)}
    settings |= {"least score": f"{least_score:g}", "most": str(most), "head seeds": str(protocol.head_seeds)}
    masks = any(each.metric.startswith("mask") for each in scores)
    label = test.name, "Mask R-CNN" if masks else "Faster R-CNN", "squash", "", len(test.categories)
    measured = Measurement(*label, measure_all(scores), settings, scores)
    return (measured,), learned.failures + shown.failures


def score_detection(
    train: Maps,
    train_set: tuple[InstanceSet, np.ndarray],
    test: Maps,
    test_set: tuple[InstanceSet, np.ndarray],
    protocol: DetectionProtocol | None = None,
    track: Track = untracked,
) -> tuple[DrawnScores, ...]:
    """Fit on features of pictures and measure on others: `box AP` first, and `mask AP` where both sets have masks.

    Each head seed has its own scores; what does not exist is left out. With each set: which of its pictures the
    features are of, (n,). ModelError where features are not finite.
    """
    protocol = protocol or DetectionProtocol()
    known, rows = test_set
    check_finite(train, "detection, training pictures")
    check_finite(test, "detection", [known.keys[int(row)] for row in rows])
    score = partial(_score_detector, train, train_set, test, test_set, protocol, track)
    return with_head_seeds(protocol.head_seeds, score)


def _score_detector(
    train: Maps,
    train_set: tuple[InstanceSet, np.ndarray],
    test: Maps,
    test_set: tuple[InstanceSet, np.ndarray],
    protocol: DetectionProtocol,
    track: Track,
    seed: int,
) -> tuple[DrawnScores, ...]:
    """The scores of a detector of one seed."""
    known, rows = test_set
    masks = train_set[0].has_masks and known.has_masks
    config = replace(protocol.head, fit=protocol.head.fit.with_seed(seed))
    detector = fit_detector(train, *train_set, masks, config, track)
    results: dict[str, list[dict[str, Any]]] = {"box": [], **({"mask": []} if masks else {})}
    for place, row in enumerate(track(rows, "detecting", len(rows))):
        (found,) = detector.detect(take(test, slice(place, place + 1)), [known.size(int(row))])
        for kind, some in to_results(found, known, int(row)).items():
            results[kind] += some
    truth = known.truth(rows)
    kinds: Sequence[tuple[str, Any]] = (("box", "bbox"), ("mask", "segm"))
    names = [known.keys[int(row)] for row in rows]
    return tuple(
        each
        for name, kind in kinds
        if name in results
        for each in average_precision(truth, results[name], kind, known.lvis).scores(name, names)
    )


def to_results(found: Detected, pictures: InstanceSet, row: int) -> dict[str, list[dict[str, Any]]]:
    """What was found in a picture, in COCO's format of results: `box`, and `mask` where masks were found."""
    image = pictures.images[row]["id"]
    numbers = [pictures.categories[label - 1]["id"] for label in found.labels.tolist()]
    corners = found.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    rest = [
        {"image_id": image, "category_id": number, "score": score}
        for number, score in zip(numbers, found.scores.tolist(), strict=True)
    ]
    results = {"box": [{**each, "bbox": box} for each, box in zip(rest, boxes, strict=True)]}
    if found.masks is not None:
        encode = _encoder()
        results["mask"] = [{**each, "segmentation": encode(mask)} for each, mask in zip(rest, found.masks, strict=True)]
    return results


def _encoder() -> Callable[[np.ndarray], dict[str, Any]]:
    """What makes COCO's run lengths of a mask."""
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise MissingExtraError("faster-coco-eval", "eval") from None
    return lambda pixels: mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
