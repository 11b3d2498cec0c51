"""Evaluations of encoders and layers by name: the signature and the docstring of each make its `pe eval` command.

Imports are inside the functions, so that help and completion do not wait for torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_encoder.progress import Track, untracked

if TYPE_CHECKING:
    from perception_encoder.evaluation.results import Result
    from perception_encoder.inference.encoder import Encoder
    from perception_encoder.inference.layer_features import LayerFeatures
    from perception_encoder.inference.model_spec import ModelSpec

    EncoderLike = str | Path | ModelSpec | Encoder
    LayersLike = str | Path | ModelSpec | Encoder | LayerFeatures
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
    """Classify zero-shot: top-1 and top-5.

    Also the mean class accuracy. Both transforms are evaluated; the paper reports the better one. The embedding of a
    video is the mean over its frames. Labels are names of directories, WordNet ids or numbers, in Kinetics' CSV or in
    any table; WebDataset tars have numbers (KEY.cls) and classnames.txt. See docs/evaluation.md for each dataset.
    Status 1: some items could not be decoded; they are listed and left out of every result.

    Examples:

        pe eval classification PE-Core-L14-336 --data imagenet --split val --classes imagenet -o in1k.json
        pe eval classification PE-Core-L14-336 --data food101      # downloaded once; docs/datasets.md lists the names
        pe eval classification PE-Core-L14-336 --data k400_val.csv --media k400 --split val --prompts kinetics
        pe eval classification builtin --data photos --prompts photo
    """
    from perception_encoder.datasets.classified import ClassOptions, load_tasks
    from perception_encoder.evaluation.classification.zero_shot import DATASET, ZeroShotEvaluator
    from perception_encoder.evaluation.embeddings import evaluate_encoder

    options = ClassOptions(classes=classes, mapping=_path(mapping), onto=onto, media=_path(media), trim=trim)
    tasks = [_at_most(task, items) for task in load_tasks(Path(data), split, options).values()]
    names = [name.strip() for name in prompts.split(",") if name] if isinstance(prompts, str) else prompts
    evaluators = [
        ZeroShotEvaluator(task, names or [DATASET if task.templates else "imagenet"], frames) for task in tasks
    ]
    return evaluate_encoder(evaluators, model, split, progress, transform, texts=True)


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
    """Retrieve by captions: R@1, R@5 and R@10.

    In both directions, from raw captions, with and without dual softmax. Dual softmax compares all queries at once, so
    its results are listed separately. The published COCO results (`pe models`) very probably use it. Fewer items are
    easier to tell apart.

    Examples:

        pe eval retrieval PE-Core-L14-336 --data captions_val2017.json --media val2017 -o coco.json
        pe eval retrieval PE-Core-L14-336 --data dataset_coco.json --media coco
        pe eval retrieval PE-Core-L14-336 --data flickr30k
        pe eval retrieval PE-Core-L14-336 --data MSRVTT_JSFUSION_test.csv --media MSRVTT/videos
        pe eval retrieval PE-Core-L14-336 --data PE-Video      # PVD-Bench: the refined captions of `test`
    """
    from perception_encoder.datasets.captioned import load_captions
    from perception_encoder.evaluation.embeddings import evaluate_encoder
    from perception_encoder.evaluation.retrieval import RetrievalEvaluator

    captions = _at_most(load_captions(Path(data), _path(media), split), items)
    return evaluate_encoder([RetrievalEvaluator(captions, frames)], model, split, progress, transform, texts=True)


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
    """Classify by the nearest training items.

    A neighbour's vote has the weight exp(similarity / 0.07).

    Examples:

        pe eval knn PE-Core-L14-336 --data imagenet --split val -o knn.json
        pe eval knn -m timm:vit_small_patch14_dinov2 --data photos --k 10,20
        pe eval knn hf:facebook/dinov2-small --layer 8 --pool cls --data photos
    """
    from perception_encoder.datasets.classified import ClassOptions
    from perception_encoder.evaluation.classification.probes import NeighboursEvaluator
    from perception_encoder.evaluation.classification.splits import load_splits
    from perception_encoder.evaluation.embeddings import evaluate_encoder

    tasks = load_splits(Path(data), split, _path(train), ClassOptions(media=_path(media)), choosing=False)
    evaluators = [NeighboursEvaluator(task, [k] if isinstance(k, int) else k) for task in tasks.values()]
    return evaluate_encoder(evaluators, model, split, progress, transform, layer, pool)


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
    """Classify by logistic regression.

    Embeddings are frozen and standardised; the regularisation is chosen on `val`, or on a tenth of `train`.

    Examples:

        pe eval linear builtin --data photos --layer 8 -o linear.json
    """
    from perception_encoder.datasets.classified import ClassOptions
    from perception_encoder.evaluation.classification.probes import LinearEvaluator
    from perception_encoder.evaluation.classification.splits import load_splits
    from perception_encoder.evaluation.embeddings import evaluate_encoder

    tasks = load_splits(Path(data), split, _path(train), ClassOptions(media=_path(media)))
    return evaluate_encoder(map(LinearEvaluator, tasks.values()), model, split, progress, transform, layer, pool)


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
    """Classify by a trained attention block.

    A cross-attention block is trained on the frozen tokens of a layer, by default the last.

    Examples:

        pe eval attentive builtin --data photos --layer 8 -o attentive.json
    """
    from perception_encoder.datasets.classified import ClassOptions
    from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig, AttentiveEvaluator
    from perception_encoder.evaluation.classification.splits import load_splits
    from perception_encoder.evaluation.layer_evaluator import evaluate_layer
    from perception_encoder.inference.load import open_layers

    config = AttentiveConfig(head_seeds=head_seeds)
    config = replace(config, fit=replace(config.fit, epochs=epochs))
    tasks = load_splits(Path(data), split, _path(train), ClassOptions(media=_path(media)))
    features = open_layers(model, layer)
    evaluators = [AttentiveEvaluator(task, config, features.device) for task in tasks.values()]
    return evaluate_layer(evaluators, features, split, progress)


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
    """Fit a segmentation head: mIoU.

    Also the pixel accuracy. PATH: images/ with masks/, whole or in train/ and test/, or ADE20K's images and
    annotations.

    Examples:

        pe eval segmentation PE-Spatial-G14-448 --data ADEChallengeData2016 --size 518 -o segmentation.json
        pe eval segmentation builtin --data photos --layer 8 --kernel 3
    """
    from perception_encoder.datasets.class_masks import read_class_splits
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.dense_prediction.segmentation import SegmentationConfig
    from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
    from perception_encoder.evaluation.layer_evaluator import evaluate_layer
    from perception_encoder.inference.load import open_layers

    head = SegmentationConfig(kernel=kernel, fit=FitConfig(epochs=epochs))
    train, test = (_at_most(part, items) for part in read_class_splits(Path(data)))
    evaluator = SegmentationEvaluator(train, test, head, _size(size), head_seeds=head_seeds, track=progress)
    return evaluate_layer([evaluator], open_layers(model, layer), "test", progress)


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
    """Fit a detection head: AP of boxes and masks.

    Mask R-CNN over a frozen layer; AP as COCO or LVIS define it. PATH: the directory of COCO, LVIS or Objects365 (or
    the annotations of val, such as annotations/lvis_v1_val.json), YOLO's data.yaml, train/
    and test/ with instances.json and images or tars, or a directory with annotations.json, trained on its first three
    fifths. Masks are optional. A few hundred images are too few to tell classes apart: use --class-agnostic.

    Examples:

        pe eval detection PE-Core-G14-448 --data coco --layer 39 --size 1022 --channels 256 -o detection.json
        pe eval detection builtin --data photos --layer 8 --class-agnostic
    """
    from perception_encoder.datasets.instances import read_instance_splits
    from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.evaluation.dense.detection import DetectionEvaluator
    from perception_encoder.evaluation.layer_evaluator import evaluate_layer
    from perception_encoder.inference.load import open_layers

    fit = FitConfig(epochs=epochs, batch=8, weight_decay=0.05)
    head = DetectionConfig(channels=channels, hidden=4 * channels, regions=2 * channels, fit=fit)
    splits = read_instance_splits(Path(data))
    train, test = (part.merge_classes() for part in splits) if class_agnostic else splits
    evaluator = DetectionEvaluator(train, test, head, _size(size), head_seeds=head_seeds)
    return evaluate_layer([evaluator], open_layers(model, layer), "test", progress)


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
    """Track objects through videos: J&F.

    Also J and F, as in DAVIS. The mask of the first frame is propagated to similar patches of later frames;
    nothing is trained. PATH: a DAVIS directory (JPEGImages, Annotations), a tar, or a directory of tars or directories,
    each with NNNNN.jpg and NNNNN.png.

    Examples:

        pe eval tracking PE-Core-G14-448 --data DAVIS --layer 31 -o tracking.json
        pe eval tracking builtin --data davis --layer 5 --short-side 240
    """
    from perception_encoder.datasets.masked_videos import read_videos
    from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
    from perception_encoder.evaluation.layer_evaluator import evaluate_layer
    from perception_encoder.inference.load import open_layers

    videos = read_videos(Path(data))
    evaluator = TrackingEvaluator([videos[row] for row in _spread(len(videos), items)], short_side)
    return evaluate_layer([evaluator], open_layers(model, layer, final_norm), Path(data).stem, progress, "")


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
    """Fit a depth head: RMSE in metres.

    Also the absolute relative error and the shares within 1.25, 1.25² and 1.25³. The head is in the style of DPT.

    PATH holds train and test, as tars or directories of KEY.jpg with KEY.depth.png, or of NYU's rgb_N.jpg with
    sync_depth_N.png; or it is one tar or directory, trained on its first three fifths. Images of one directory are one
    block of the interval. Where images do not show the scale, use --aligned.

    Examples:

        pe eval depth PE-Core-G14-448 --data nyu --layer 38 --channels 256 --eigen-crop -o depth.json
        pe eval depth builtin --data livingroom.tar --layer 6 --size 240x320
        pe eval depth builtin --data photos --layer 8 --aligned
    """
    from perception_encoder.datasets.rgbd import read_depth_splits
    from perception_encoder.dense_prediction.depth import DepthConfig
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
    from perception_encoder.evaluation.layer_evaluator import evaluate_layer
    from perception_encoder.inference.load import open_layers

    head = DepthConfig(channels=channels, fit=FitConfig(epochs=epochs))
    head = head.relative() if aligned else head
    protocol = DepthProtocol(head=head, eigen_crop=eigen_crop, aligned=aligned)
    train, test = (_at_most(part, items) for part in read_depth_splits(Path(data), per_metre))
    evaluator = DepthEvaluator(train, test, protocol, _size(size), head_seeds=head_seeds)
    return evaluate_layer([evaluator], open_layers(model, layer), "test", progress)


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


def _at_most(data: Any, items: int | None) -> Any:
    """Return at most `items` of a dataset, at even intervals; all by default."""
    return data.select(_spread(len(data.keys), items))


def _spread(count: int, items: int | None) -> Sequence[int]:
    from perception_encoder.preprocess.frames import spread_indices

    return range(count) if items is None else spread_indices(count, min(items, count))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _size(size: ImageSize) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size
