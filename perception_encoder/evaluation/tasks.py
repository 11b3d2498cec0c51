"""Evaluations of encoders and layers, each a function from a model and a dataset to a `Result`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_encoder.datasets.captioned import load_captions
from perception_encoder.datasets.class_masks import read_class_splits
from perception_encoder.datasets.classified import ClassOptions, load_tasks
from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.rgbd import read_depth_splits
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.dense_prediction.segmentation import SegmentationConfig
from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig, AttentiveEvaluator
from perception_encoder.evaluation.classification.probes import LinearEvaluator, NeighboursEvaluator
from perception_encoder.evaluation.classification.prompts import DATASET
from perception_encoder.evaluation.classification.splits import load_splits
from perception_encoder.evaluation.classification.zero_shot import ZeroShotEvaluator
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.detection import DetectionEvaluator
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.embeddings import cache_features, load_variants
from perception_encoder.evaluation.results import Evaluator, Result, evaluate
from perception_encoder.evaluation.retrieval import RetrievalEvaluator
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import load_layers
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.progress import Track, untracked

EncoderLike = str | Path | Encoder
LayersLike = str | Path | Encoder | LayerFeatures
ImageSize = int | tuple[int, int] | None


def classification(
    model: EncoderLike,
    data: str | Path,
    *,
    split: str = "test",
    classes: str = "",
    mapping: str | Path | None = None,
    onto: str = "",
    media: str | Path | None = None,
    trim: int = 0,
    prompts: str | Sequence[str] = "",
    transform: str | None = None,
    frames: int = 8,
    items: int | None = None,
    progress: Track = untracked,
) -> Result:
    """Classify zero-shot: mean class accuracy, top-1 and top-5.

    `prompts`: by default the dataset's own, or else imagenet. `items`: maximum number, at even intervals.
    """
    options = ClassOptions(classes=classes, mapping=_path(mapping), onto=onto, media=_path(media), trim=trim)
    tasks = [task.select(_spread(len(task.keys), items)) for task in load_tasks(Path(data), split, options).values()]
    names = [name.strip() for name in prompts.split(",") if name] if isinstance(prompts, str) else prompts
    evaluators = [
        ZeroShotEvaluator(task, names or [DATASET if task.templates else "imagenet"], frames) for task in tasks
    ]
    return _evaluate_variants(evaluators, model, split, progress, transform, texts=True)


def retrieval(
    model: EncoderLike,
    data: str | Path,
    *,
    media: str | Path | None = None,
    split: str = "test",
    transform: str | None = None,
    frames: int = 8,
    items: int | None = None,
    progress: Track = untracked,
) -> Result:
    """Retrieve media by captions and captions by media: R@1, R@5 and R@10, with and without dual softmax.

    `items`: maximum number of images or videos, at even intervals; fewer are easier to tell apart.
    """
    captions = load_captions(Path(data), _path(media), split)
    evaluator = RetrievalEvaluator(captions.select(_spread(len(captions.keys), items)), frames)
    return _evaluate_variants([evaluator], model, split, progress, transform, texts=True)


def knn(
    model: EncoderLike,
    data: str | Path,
    *,
    split: str = "test",
    train: str | Path | None = None,
    media: str | Path | None = None,
    k: int | Sequence[int] = 20,
    layer: int | None = None,
    pool: str | None = None,
    transform: str | None = None,
    progress: Track = untracked,
) -> Result:
    """Classify by the nearest training items: mean class accuracy and top-1 for each `k`."""
    tasks = load_splits(Path(data), split, _path(train), ClassOptions(media=_path(media)), choosing=False)
    evaluators = [NeighboursEvaluator(task, [k] if isinstance(k, int) else k) for task in tasks.values()]
    return _evaluate_variants(evaluators, model, split, progress, transform, layer, pool)


def linear(
    model: EncoderLike,
    data: str | Path,
    *,
    split: str = "test",
    train: str | Path | None = None,
    media: str | Path | None = None,
    layer: int | None = None,
    pool: str | None = None,
    transform: str | None = None,
    progress: Track = untracked,
) -> Result:
    """Classify by logistic regression on frozen embeddings."""
    tasks = load_splits(Path(data), split, _path(train), ClassOptions(media=_path(media)))
    return _evaluate_variants(map(LinearEvaluator, tasks.values()), model, split, progress, transform, layer, pool)


def attentive(
    model: LayersLike,
    data: str | Path,
    *,
    split: str = "test",
    train: str | Path | None = None,
    media: str | Path | None = None,
    layer: int | None = None,
    epochs: int = 20,
    head_seeds: int = 3,
    progress: Track = untracked,
) -> Result:
    """Classify by a cross-attention block that is trained on a layer's frozen tokens."""
    config = AttentiveConfig(epochs=epochs, head_seeds=head_seeds)
    tasks = load_splits(Path(data), split, _path(train), ClassOptions(media=_path(media)))
    features = open_layers(model, layer)
    evaluators = [AttentiveEvaluator(task, config, features.device) for task in tasks.values()]
    return _evaluate_layer(evaluators, features, split, progress)


def segmentation(
    model: LayersLike,
    data: str | Path,
    *,
    layer: int | None = None,
    size: ImageSize = None,
    epochs: int = 20,
    kernel: int = 1,
    head_seeds: int = 3,
    items: int | None = None,
    progress: Track = untracked,
) -> Result:
    """Fit a segmentation head on a layer: mIoU and pixel accuracy. `items`: maximum number of each split."""
    head = SegmentationConfig(kernel=kernel, fit=FitConfig(epochs=epochs))
    train, test = (part.select(_spread(len(part.keys), items)) for part in read_class_splits(Path(data)))
    evaluator = SegmentationEvaluator(train, test, head, _size(size), head_seeds=head_seeds, track=progress)
    return _evaluate_layer([evaluator], open_layers(model, layer), "test", progress)


def detection(
    model: LayersLike,
    data: str | Path,
    *,
    layer: int | None = None,
    size: ImageSize = None,
    class_agnostic: bool = False,
    epochs: int = 15,
    channels: int = 64,
    head_seeds: int = 3,
    progress: Track = untracked,
) -> Result:
    """Fit a Mask R-CNN head on a layer: AP of boxes and masks."""
    fit = FitConfig(epochs=epochs, batch=8, weight_decay=0.05)
    head = DetectionConfig(channels=channels, hidden=4 * channels, regions=2 * channels, fit=fit)
    splits = read_instance_splits(Path(data))
    train, test = (part.merge_classes() for part in splits) if class_agnostic else splits
    evaluator = DetectionEvaluator(train, test, head, _size(size), head_seeds=head_seeds)
    return _evaluate_layer([evaluator], open_layers(model, layer), "test", progress)


def tracking(
    model: LayersLike,
    data: str | Path,
    *,
    layer: int | None = None,
    final_norm: bool = False,
    short_side: int = 480,
    items: int | None = None,
    progress: Track = untracked,
) -> Result:
    """Track objects through videos by the similarity of a layer's patches: J&F, J and F.

    `items`: maximum number of videos.
    """
    videos = read_videos(Path(data))
    evaluator = TrackingEvaluator([videos[row] for row in _spread(len(videos), items)], short_side)
    return _evaluate_layer([evaluator], open_layers(model, layer, final_norm), Path(data).stem, progress, "")


def depth(
    model: LayersLike,
    data: str | Path,
    *,
    layer: int | None = None,
    size: ImageSize = None,
    per_metre: float = 1000.0,
    eigen_crop: bool = False,
    aligned: bool = False,
    epochs: int = 20,
    channels: int = 64,
    head_seeds: int = 3,
    items: int | None = None,
    progress: Track = untracked,
) -> Result:
    """Fit a depth head on a layer: RMSE in metres, relative error, and shares within 1.25, 1.25² and 1.25³.

    `items`: maximum number of images of each split.
    """
    head = DepthConfig(channels=channels, fit=FitConfig(epochs=epochs))
    head = head.relative() if aligned else head
    protocol = DepthProtocol(head=head, eigen_crop=eigen_crop, aligned=aligned)
    both = read_depth_splits(Path(data), per_metre)
    train, test = (part.select(_spread(len(part.keys), items)) for part in both)
    evaluator = DepthEvaluator(train, test, protocol, _size(size), head_seeds=head_seeds)
    return _evaluate_layer([evaluator], open_layers(model, layer), "test", progress)


TASKS: dict[str, Callable[..., Result]] = {
    "classification": classification,
    "retrieval": retrieval,
    "knn": knn,
    "linear": linear,
    "attentive": attentive,
    "segmentation": segmentation,
    "detection": detection,
    "tracking": tracking,
    "depth": depth,
}
"""Tasks of `perception_encoder.evaluate` on encoders and layers."""


def run_evaluators(
    evaluators: Iterable[Evaluator[Any]],
    models: Mapping[str, Any],
    split: str,
    about: Mapping[str, str],
    progress: Track = untracked,
) -> Result:
    """Run evaluators on a model under each of its transforms, by name."""
    measurements = tuple(evaluate(evaluators, models, progress))
    failures = {str(failure): failure for measurement in measurements for failure in measurement.failures}
    name = next(iter(models.values())).name
    return Result(model=name, split=split, measurements=measurements, failures=tuple(failures), about=dict(about))


def open_layers(model: LayersLike, layer: int | None, final_norm: bool = False) -> LayerFeatures:
    """Return a model at a layer, by default the last, or the selected one of `LayerFeatures`."""
    if isinstance(model, LayerFeatures):
        return model if layer is None else model.at(layer)
    if isinstance(model, Encoder):
        return LayerFeatures.of(model, final_norm).at(-1 if layer is None else layer)
    return load_layers(model, layer=-1 if layer is None else layer, final_norm=final_norm)


def _evaluate_variants(
    evaluators: Iterable[Evaluator[Encoder]],
    model: EncoderLike,
    split: str,
    progress: Track,
    transform: str | None,
    layer: int | None = None,
    pool: str | None = None,
    texts: bool = False,
) -> Result:
    variants, about = load_variants(model, transform, layer, pool, texts)
    return run_evaluators(evaluators, cache_features(variants), split, about, progress)


def _evaluate_layer(
    evaluators: Iterable[Evaluator[LayerFeatures]],
    features: LayerFeatures,
    split: str,
    progress: Track,
    transform: str = "squash",
) -> Result:
    return run_evaluators(evaluators, {transform: features}, split, features.about, progress)


def _spread(count: int, items: int | None) -> Sequence[int]:
    """Return at most `items` of `count` rows, at even intervals; all by default."""
    return range(count) if items is None else spread_indices(count, min(items, count))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _size(size: ImageSize) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size
