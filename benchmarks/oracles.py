"""Check each dense evaluator: perfect features must score nearly 100 %, noise next to nothing.

    python -m benchmarks.oracles --out docs/results/oracles.json --davis DIR

Perfect features are the ground truth by patch: the share of each object or class among the pixels, the mean depth. They
run through the same heads and the same scoring as the features of a layer. Images are drawn here: rectangles and discs
before a wall. With `--davis`, a directory of NAME.tar, real masks are tracked too: by their own shares, by colours and
by noise.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.results import report
from perception_encoder.datasets.class_masks import ClassMasks
from perception_encoder.datasets.instances import InstanceSet
from perception_encoder.datasets.masked_videos import VOID, read_videos
from perception_encoder.datasets.rgbd import DepthImages
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.dense_prediction.segmentation import SegmentationConfig
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.detection import DetectionEvaluator, average_precision, to_results
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
from perception_encoder.evaluation.dense.tracking import score_video, tracking_scores
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import HeadEvaluator, LayerSource, ScoreLayer
from perception_encoder.evaluation.statistics.scores import Score, measure_all
from perception_encoder.progress import Track, untracked

SIZE, PATCH, TRAINED, TESTED = (64, 80), 4, 32, 12
DAVIS_PATCH, DAVIS_FRAMES = 8, 30

Row = dict[str, Any]


def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[tuple[int, list[int]]]]:
    """Draw an image: classes (H, W), depth in metres (H, W), and objects: class and box (left, top, width, height)."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    classes, depth = np.zeros(SIZE, np.int16), np.full(SIZE, generator.uniform(4, 8), np.float32)
    objects = []
    for side in range(2):
        number = int(generator.integers(1, 3))
        top, left = int(generator.integers(2, 28)), int(generator.integers(2, 12)) + 40 * side
        height, width = int(generator.integers(16, 32)), int(generator.integers(14, 24))
        inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        if number == 2:
            inside &= ((y - top + 0.5) / height - 0.5) ** 2 + ((x - left + 0.5) / width - 0.5) ** 2 < 0.25
        classes[inside], depth[inside] = number, generator.uniform(1, 3)
        objects.append((number, [left, top, width, height]))
    return classes, depth, objects


def by_patch(maps: np.ndarray, patch: int) -> np.ndarray:
    """The means of patches, (…, H, W, C) → (…, H/p, W/p, C)."""
    *first, height, width, channels = maps.shape
    cut = maps.reshape(*first, height // patch, patch, width // patch, patch, channels)
    return cut.mean(axis=(-4, -2))


def noise(like: np.ndarray) -> np.ndarray:
    """Random features on the same grid."""
    return np.random.default_rng(1).normal(size=(*like.shape[:-1], 16))


def rows_of(task: str, features: str, metrics: Sequence[Score]) -> Iterator[Row]:
    """A row for each metric."""
    for metric in metrics:
        yield {
            "task": task,
            "features": features,
            "metric": metric.name,
            "value": round(metric.value, 4),
            "unit": metric.unit,
            "n": metric.n,
        }


def heads() -> Iterator[Row]:
    """Segmentation and depth."""
    generator = np.random.default_rng(0)
    drawn = [draw(generator) for _ in range(TRAINED + TESTED)]
    classes, depth = np.stack([item[0] for item in drawn]), np.stack([value[1] for value in drawn])
    fit = FitConfig(epochs=25, batch=8, lr=1e-2)
    shares, mean = by_patch(np.eye(3)[classes], PATCH), by_patch(depth[..., None], PATCH)
    keys = tuple(map(str, range(len(drawn))))
    both = slice(None, TRAINED), slice(TRAINED, None)
    masks = [
        ClassMasks(
            name="drawn",
            keys=keys[part],
            images=(b"",) * len(keys[part]),
            masks=tuple(_png(mask.astype(np.uint8)) for mask in classes[part]),
            classes=("floor", "rectangle", "disc"),
            numbers={0: 0, 1: 1, 2: 2},
        )
        for part in both
    ]
    depths = [
        DepthImages(
            name="drawn",
            keys=keys[part],
            images=(b"",) * len(keys[part]),
            depths=tuple(_png((1000 * item).round().astype(np.uint16)) for item in depth[part]),
            blocks=keys[part],
        )
        for part in both
    ]
    for name, maps in (("the truth", shares), ("noise", noise(shares))):
        task = SegmentationEvaluator(masks[0], masks[1], SegmentationConfig(fit=fit), head_seeds=1)
        yield from rows_of("segmentation", name, fitted(task, maps))
    for name, maps in (("the truth", mean), ("noise", noise(mean))):
        protocol = DepthProtocol(head=DepthConfig(channels=16, fit=fit))
        metrics = fitted(DepthEvaluator(depths[0], depths[1], protocol, head_seeds=1), maps)
        yield from rows_of("depth", name, [entry for entry in metrics if entry.name in ("RMSE", "delta1")])


def fitted(task: HeadEvaluator, maps: np.ndarray) -> list[Score]:
    """Fit a task's head on the first maps (n, h, w, D), and score it on the others."""
    return list(task.run(_Maps(maps)))


class _Maps(LayerSource):
    """Features that are given."""

    def __init__(self, maps: np.ndarray) -> None:
        self.maps = maps

    def score(
        self, inputs: Sequence[EncoderInputs], depends: str, score: ScoreLayer, track: Track = untracked
    ) -> Iterator[Score]:
        """Score the first maps and the others."""
        parts = self.maps[:TRAINED], self.maps[TRAINED:]
        yield from score(
            CachedTokens(
                layer=0,
                tokens=part.reshape(len(part), -1, part.shape[-1]),
                prefix=0,
                grid=part.shape[1:3],
                rows=np.arange(len(part)),
            )
            for part in parts
        )


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def detectors() -> Iterator[Row]:
    """Detection, with a Mask R-CNN that is fitted."""
    generator = np.random.default_rng(0)
    drawn = [draw(generator) for _ in range(TRAINED + TESTED)]
    sets = instances(drawn[:TRAINED]), instances(drawn[TRAINED:])
    shares = by_patch(np.eye(3)[np.stack([item[0] for item in drawn])], PATCH)
    head = DetectionConfig(channels=16, hidden=64, regions=16, fit=FitConfig(epochs=60, batch=8, weight_decay=1e-4))
    for name, maps in (("the truth", shares), ("noise", noise(shares))):
        metrics = fitted(DetectionEvaluator(*sets, head, head_seeds=1), maps)
        for kind in ("box", "mask"):
            yield from rows_of(
                "detection, fitted", name, [m for m in metrics if m.name in (f"{kind} AP", f"{kind} AP50")]
            )


def scoring() -> Iterator[Row]:
    """Score detections that are the truth, the truth with boxes moved by a tenth, or random boxes."""
    generator = np.random.default_rng(0)
    known = instances([draw(generator) for _ in range(TESTED)])
    ways: dict[str, Callable[[Detected], Detected]] = {
        "the truth": lambda detected: detected,
        "the truth, a tenth to the right": lambda detected: moved(detected, 0.1),
        "boxes anywhere": lambda detected: anywhere(detected, generator),
    }
    rows = np.arange(TESTED)
    for name, change in ways.items():
        results: dict[str, list[dict[str, Any]]] = {"box": [], "mask": []}
        for row in range(TESTED):
            objects = known.instances(row)
            right = Detected(objects.boxes, objects.labels, np.ones(len(objects.labels), np.float32), objects.masks)
            for kind, some in to_results(change(right), known, row).items():
                results[kind] += some
        for kind, iou in (("box", "bbox"), ("mask", "segm")):
            measured = average_precision(known.truth(rows), results[kind], iou)  # type: ignore[arg-type]
            yield from rows_of("detection, given", name, measure_all(measured.scores(kind, known.keys))[:2])


def instances(drawn: Sequence[tuple[np.ndarray, np.ndarray, list[tuple[int, list[int]]]]]) -> InstanceSet:
    """Drawn images as an annotated dataset, with run lengths as masks."""
    images, annotations = [], {}
    for number, (classes, _, objects) in enumerate(drawn, start=1):
        images.append({"id": number, "height": SIZE[0], "width": SIZE[1]})
        rows_of_image = []
        for label, (left, top, width, height) in objects:
            mask = np.zeros(SIZE, bool)
            here = np.s_[top : top + height, left : left + width]
            mask[here] = classes[here] == label
            flat = mask.T.ravel()
            ends = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
            counts = [int(item) for item in np.diff(ends)]
            rows_of_image.append(
                {
                    "id": 2 * number + len(rows_of_image),
                    "image_id": number,
                    "category_id": label,
                    "bbox": [left, top, width, height],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": list(SIZE), "counts": [0, *counts] if flat[0] else counts},
                }
            )
        annotations[number] = rows_of_image
    return InstanceSet(
        name="drawn",
        keys=tuple(str(image["id"]) for image in images),
        images=(b"",) * len(images),
        records=tuple(images),
        annotations=annotations,
        categories=({"id": 1, "name": "rectangle"}, {"id": 2, "name": "disc"}),
    )


def moved(detected: Detected, share: float) -> Detected:
    """Boxes moved to the right by a share of their width, and masks by as many whole pixels."""
    steps = share * (detected.boxes[:, 2] - detected.boxes[:, 0])
    boxes = detected.boxes + np.stack([steps, 0 * steps] * 2, axis=1)
    assert detected.masks is not None
    masks = np.stack([np.roll(mask, round(float(step)), 1) for mask, step in zip(detected.masks, steps, strict=True)])
    return Detected(boxes.astype(np.float32), detected.labels, detected.scores, masks)


def anywhere(detected: Detected, generator: np.random.Generator) -> Detected:
    """As many boxes, of the same sizes, at random positions."""
    size = detected.boxes[:, 2:] - detected.boxes[:, :2]
    corner = generator.uniform(0, 1, size.shape) * (np.array(SIZE[::-1]) - size)
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    return Detected(boxes, detected.labels, detected.scores, masks)


def tracking(directory: Path) -> Iterator[Row]:
    """Masks of real clips, tracked by their own shares, by colours and by noise."""
    videos = read_videos(directory)
    kinds: dict[str, dict[str, np.ndarray]] = {"the truth": {}, "colours": {}, "noise": {}}
    masks = {video.name: [mask for mask in video.read_masks()[:DAVIS_FRAMES] if mask is not None] for video in videos}
    for video in videos:
        frames = [video.open(number) for number in range(len(video.frames))[:DAVIS_FRAMES]]
        width, height = (side // DAVIS_PATCH for side in frames[0].size)
        colours = [np.asarray(frame.resize((width, height), Image.Resampling.BOX)) / 255 - 0.5 for frame in frames]
        kinds["colours"][video.name] = np.stack(colours)
        kinds["noise"][video.name] = noise(np.stack(colours))
        cut = np.stack(masks[video.name])
        ids = [0, *(int(n) for n in np.unique(cut[0]) if n not in (0, VOID))]
        one_hot = np.stack([cut == number for number in ids], axis=-1).astype(np.float32)
        resized = [
            np.stack([_shrink(frame[..., k], (width, height)) for k in range(len(ids))], axis=-1) for frame in one_hot
        ]
        kinds["the truth"][video.name] = np.stack(resized)
    for name, maps in kinds.items():
        scores = {video: score_video(video, features, masks[video]) for video, features in maps.items()}
        yield from rows_of("tracking", name, measure_all(tracking_scores(scores)))


def _shrink(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BOX))


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, help="directory of NAME.tar, or DAVIS itself")
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    rows = [*(tracking(arguments.davis) if arguments.davis else ()), *heads(), *detectors(), *scoring()]
    report({"davis": arguments.davis.name if arguments.davis else "", "rows": rows}, arguments.out)


if __name__ == "__main__":
    main()
