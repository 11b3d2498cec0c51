"""The functions of `pe.evaluate`. Heads, and the tracker, are imported where they are used: that takes a second."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from perception_encoder.conversation.assistant import Assistant
from perception_encoder.datasets.captioned import load_captions
from perception_encoder.datasets.class_masks import read_class_splits
from perception_encoder.datasets.classified import ClassOptions, load_tasks
from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.published import published_by_name
from perception_encoder.datasets.questions.read import default_split
from perception_encoder.datasets.rgbd import read_depth_splits
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.classification.probes import LinearEvaluator, NeighboursEvaluator
from perception_encoder.evaluation.classification.splits import load_splits
from perception_encoder.evaluation.classification.zero_shot import DATASET, ZeroShotEvaluator
from perception_encoder.evaluation.embeddings import evaluate_encoder
from perception_encoder.evaluation.language.evaluators import QuestionEvaluator
from perception_encoder.evaluation.language.tasks import TASKS, LanguageTask
from perception_encoder.evaluation.layer_evaluator import evaluate_layer
from perception_encoder.evaluation.results import Result, run_evaluators
from perception_encoder.evaluation.retrieval import RetrievalEvaluator
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import open_layers
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_models.language_model import LanguageModel
from perception_encoder.language_models.load import load_assistant
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.progress import Track, untracked

EncoderLike = str | Path | ModelSpec | Encoder
LayersLike = str | Path | ModelSpec | Encoder | LayerFeatures
ImageSize = int | tuple[int, int] | None


@published_by_name("classification")
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
    video is the mean over its frames.

    Args:
        model: The model, or its name.
        data: A directory of classes, tars, a table, or the name of a published dataset (docs/datasets.md).
        split: A subdirectory, or a value in the annotations.
        classes: "imagenet", or a file of names; by default the directories' names.
        mapping: JSON of the labels to use and their names.
        onto: With `mapping`, choose among the classes of "imagenet" or of a class file.
        media: Directory of the files that `data` lists; by default next to it.
        trim: Pixels to cut off each side.
        prompts: "photo", "imagenet", "kinetics", "actions", "name" or files; by default the dataset's, or "imagenet".
        transform: "squash", "crop", or by default both.
        frames: Uniformly spaced frames of a video.
        items: Maximum number of items, at even intervals; by default all.

    Examples:
        >>> result = pe.evaluate.classification("builtin", "flowers/", prompts="photo")
        >>> print({score.name: score.value for score in result.scores})
    """
    options = ClassOptions(classes=classes, mapping=_path(mapping), onto=onto, media=_path(media), trim=trim)
    tasks = [_at_most(task, items) for task in load_tasks(Path(data), split, options).values()]
    names = [name.strip() for name in prompts.split(",") if name] if isinstance(prompts, str) else prompts
    evaluators = [
        ZeroShotEvaluator(task, names or [DATASET if task.templates else "imagenet"], frames) for task in tasks
    ]
    return evaluate_encoder(evaluators, model, split, progress, transform, texts=True)


@published_by_name("retrieval")
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
    its results are listed separately. Fewer items are easier to tell apart. Other arguments are those of
    `classification`.

    Args:
        data: Captions as JSON (COCO, Karpathy, MSR-VTT), a table, tars, or the name of a published dataset.

    Examples:
        >>> result = pe.evaluate.retrieval("builtin", "captions_val2017.json", media="val2017")
    """
    captions = _at_most(load_captions(Path(data), _path(media), split), items)
    return evaluate_encoder([RetrievalEvaluator(captions, frames)], model, split, progress, transform, texts=True)


@published_by_name("knn")
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

    A neighbour's vote has the weight exp(similarity / 0.07). Other arguments are those of `classification`.

    Args:
        train: Dataset with the training split; by default `data`.
        k: Numbers of neighbours.
        layer: The layer to pool, 0-based; by default the model's output.
        pool: "attn", "cls" or "mean"; by default the model's.

    Examples:
        >>> result = pe.evaluate.knn("builtin", "flowers/", k=[10, 20])
        >>> print({score.name: score.value for score in result.scores})
    """
    tasks = load_splits(Path(data), split, _path(train), ClassOptions(media=_path(media)), choosing=False)
    evaluators = [NeighboursEvaluator(task, [k] if isinstance(k, int) else k) for task in tasks.values()]
    return evaluate_encoder(evaluators, model, split, progress, transform, layer, pool)


@published_by_name("linear")
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

    Embeddings are frozen and standardised; the regularisation is chosen on `val`, or on a tenth of `train`. Other
    arguments are those of `knn`.

    Examples:
        >>> result = pe.evaluate.linear("builtin", "flowers/", layer=8)
    """
    tasks = load_splits(Path(data), split, _path(train), ClassOptions(media=_path(media)))
    return evaluate_encoder(map(LinearEvaluator, tasks.values()), model, split, progress, transform, layer, pool)


@published_by_name("attentive")
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

    A cross-attention block is trained on the frozen tokens of a layer, by default the last. Other arguments are those
    of `knn`.

    Args:
        epochs: Passes over the training images.
        head_seeds: Number of heads to fit, each with its own seed; 1 gives no interval.

    Examples:
        >>> result = pe.evaluate.attentive("builtin", "flowers/", layer=8)
    """
    from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig, AttentiveEvaluator

    config = AttentiveConfig(head_seeds=head_seeds)
    config = replace(config, fit=replace(config.fit, epochs=epochs))
    tasks = load_splits(Path(data), split, _path(train), ClassOptions(media=_path(media)))
    features = open_layers(model, layer)
    evaluators = [AttentiveEvaluator(task, config, features.device) for task in tasks.values()]
    return evaluate_layer(evaluators, features, split, progress)


@published_by_name("segmentation")
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

    Also the pixel accuracy. Other arguments are those of `attentive`.

    Args:
        data: Directory of images/ with masks/, whole or in train/ and test/, or of ADE20K's images and annotations.
        size: Height and width that images are squashed to; by default the model's.
        kernel: Patches along a side: 1 is linear, 3 a convolution.
        items: Maximum number of images of each split, at even intervals; by default all.

    Examples:
        >>> result = pe.evaluate.segmentation("builtin", "ADEChallengeData2016", layer=8, size=518)
    """
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.dense_prediction.segmentation import SegmentationConfig
    from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator

    head = SegmentationConfig(kernel=kernel, fit=FitConfig(epochs=epochs))
    train, test = (_at_most(part, items) for part in read_class_splits(Path(data)))
    evaluator = SegmentationEvaluator(train, test, head, _size(size), head_seeds=head_seeds, track=progress)
    return evaluate_layer([evaluator], open_layers(model, layer), "test", progress)


@published_by_name("detection")
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

    Mask R-CNN over a frozen layer; AP as COCO or LVIS define it. Masks are optional. Other arguments are those of
    `segmentation`.

    Args:
        data: Directory of COCO, LVIS or Objects365, YOLO's data.yaml, or a directory with annotations.json;
            docs/datasets.md has all layouts.
        class_agnostic: Detect objects as one class: a few hundred images are too few to tell classes apart.
        channels: Width of the head; published results: 256.

    Examples:
        >>> result = pe.evaluate.detection("builtin", "coco", layer=8, class_agnostic=True)
    """
    from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.evaluation.dense.detection import DetectionEvaluator

    fit = FitConfig(epochs=epochs, batch=8, weight_decay=0.05)
    head = DetectionConfig(channels=channels, hidden=4 * channels, regions=2 * channels, fit=fit)
    splits = read_instance_splits(Path(data))
    train, test = (part.merge_classes() for part in splits) if class_agnostic else splits
    evaluator = DetectionEvaluator(train, test, head, _size(size), head_seeds=head_seeds)
    return evaluate_layer([evaluator], open_layers(model, layer), "test", progress)


@published_by_name("tracking")
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

    Also J and F, as in DAVIS. The mask of the first frame is propagated to similar patches of later frames; nothing is
    trained.

    Args:
        model: The model, or its name.
        data: A DAVIS directory, a tar, or a directory of tars or directories, each with NNNNN.jpg and NNNNN.png.
        layer: The layer, 0-based; by default the last.
        final_norm: Apply the model's final norm to the last layer.
        short_side: Short side of the frames, in pixels.
        items: Maximum number of videos, at even intervals; by default all.

    Examples:
        >>> result = pe.evaluate.tracking("builtin", "DAVIS", layer=5, short_side=240)
    """
    from perception_encoder.evaluation.dense.tracking import TrackingEvaluator

    videos = read_videos(Path(data))
    evaluator = TrackingEvaluator([videos[row] for row in _spread(len(videos), items)], short_side)
    return evaluate_layer([evaluator], open_layers(model, layer, final_norm), Path(data).stem, progress, "")


@published_by_name("depth")
def fitted_depth(
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
    Images of one directory are one block of the interval. Other arguments are those of `segmentation`.

    Args:
        data: train and test, as tars or directories of KEY.jpg with KEY.depth.png, or of NYU's rgb_N.jpg with
            sync_depth_N.png; or one tar or directory, trained on its first three fifths.
        per_metre: Depth units per metre in the files: NYU 1000, TUM 5000.
        eigen_crop: Score only Eigen's crop, as usual for NYU.
        aligned: Align medians before scoring, where images do not show the scale.
        channels: Width of the head; published results: 256.

    Examples:
        >>> result = pe.evaluate.depth("builtin", "livingroom.tar", layer=6, size=(240, 320))
    """
    from perception_encoder.dense_prediction.depth import DepthConfig
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol

    head = DepthConfig(channels=channels, fit=FitConfig(epochs=epochs))
    protocol = DepthProtocol(head=head.relative() if aligned else head, eigen_crop=eigen_crop, aligned=aligned)
    train, test = (_at_most(part, items) for part in read_depth_splits(Path(data), per_metre))
    evaluator = DepthEvaluator(train, test, protocol, _size(size), head_seeds=head_seeds)
    return evaluate_layer([evaluator], open_layers(model, layer), "test", progress)


@published_by_name("questions")
def questions(
    model: str | Path | ModelSpec | Assistant,
    data: str | Path,
    *,
    dataset: str | LanguageTask = "",
    split: str = "",
    items: int | None = None,
    blind: bool = False,
    frames: int = 8,
    tiles: int | None = None,
    records: str | Path | None = None,
    progress: Track = untracked,
) -> Result:
    """Ask a language model a dataset's questions.

    The datasets of the paper's section 4, from the published files or the hub's Parquet files. VQA accuracy: vqav2,
    okvqa, textvqa. ANLS: docvqa, infovqa (small text needs tiles). Relaxed accuracy: chartqa. Accuracy: ai2d, pope (and
    F1), mvbench (videos; the mean over twenty tasks). CIDEr and BLEU: coco, one sentence for each photograph. Accuracy
    at IoU 0.5: refcoco, refcoco+, refcocog.

    Args:
        model: The assistant, or a name that `load_assistant` takes.
        data: The dataset's directory (layouts: docs/datasets.md), or the name of a published one.
        dataset: Its name, such as "textvqa"; a published dataset has one.
        split: By default the one that papers report.
        items: Maximum number of questions, at even intervals; by default all.
        blind: Show no image: what the model knows without looking.
        frames: Maximum number of frames of a video.
        tiles: Maximum number of tiles of an image; by default the model's.
        records: JSONL file of all answers, from which a run resumes.

    Examples:
        >>> result = pe.evaluate.questions("builtin-lang", "TextVQA", dataset="textvqa", records="answers.jsonl")
    """
    if isinstance(dataset, str) and dataset not in TASKS:
        raise unknown("dataset", dataset, TASKS)
    task = TASKS[dataset] if isinstance(dataset, str) else dataset
    split = split or default_split(task.name)
    read = task.read(task.name, Path(data), split)
    read = [read[row] for row in _spread(len(read), items)]
    assistant = model if isinstance(model, Assistant) else load_assistant(model, tiles=tiles)
    evaluator = QuestionEvaluator(task, read, None if records is None else Path(records), frames, blind)
    about = {}
    if isinstance(assistant, LanguageModel):
        about = {"decoder": assistant.decoder.name, "tiles": str(assistant.media.tiles)}
        about |= {"runtime": assistant.reader.runtime, "precision": assistant.reader.precision}
    return run_evaluators([evaluator], {"": assistant}, split, about, progress)


class Evaluate:
    """The evaluations, each a function: `pe.evaluate.knn(…)` does what `pe eval knn` does.

    Items that cannot be decoded are listed in the result's failures.
    """

    classification = staticmethod(classification)
    retrieval = staticmethod(retrieval)
    knn = staticmethod(knn)
    linear = staticmethod(linear)
    attentive = staticmethod(attentive)
    segmentation = staticmethod(segmentation)
    detection = staticmethod(detection)
    tracking = staticmethod(tracking)
    depth = staticmethod(fitted_depth)
    questions = staticmethod(questions)

    def __call__(
        self,
        task: str,
        model: str | Path | ModelSpec | Encoder | LayerFeatures | Assistant,
        data: str | Path,
        *,
        progress: Track = untracked,
        **arguments: Any,
    ) -> Result:
        """Evaluate a model by the name of a task: `pe.evaluate("knn", …)` is `pe.evaluate.knn(…)`.

        Args:
            task: "classification", "retrieval", "knn" or "linear", for an `Encoder`; "attentive", "segmentation",
                "detection", "tracking" or "depth", for `LayerFeatures`; "questions", for an `Assistant`.
            model: The model, or its name.
            data: A path, or the name of a published dataset, such as "food101" (docs/datasets.md), which is downloaded
                once and sets the arguments that are not given.
            **arguments: Those of the task's function.

        Raises:
            ConfigError: The task or an argument is unknown, or the model lacks a layer or a tower.
            DataError: The dataset cannot be used.
            ModelError: The model cannot be loaded.

        Examples:
            >>> result = pe.evaluate("knn", "builtin", "flowers/", k=[10, 20])
            >>> print({score.name: score.value for score in result.scores})
        """
        if task not in self.tasks:
            raise unknown("task", task, self.tasks)
        known = [name for name in inspect.signature(self.tasks[task]).parameters if name not in ("model", "data")]
        for name in arguments:
            if name not in known:
                raise unknown(f"argument of {task}", name, known)
        return self.tasks[task](model, data, progress=progress, **arguments)

    @property
    def tasks(self) -> dict[str, Callable[..., Result]]:
        """The functions by name."""
        return {name: getattr(self, name) for name, value in vars(Evaluate).items() if isinstance(value, staticmethod)}


evaluate = Evaluate()


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for an unknown name, with the nearest of the known ones."""
    near = get_close_matches(name, known := list(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
    return ConfigError(f"{name!r} is not a known {kind}; {hint}")


def _at_most(data: Any, items: int | None) -> Any:
    """Return at most `items` of a dataset, at even intervals; all by default."""
    return data.select(_spread(len(data.keys), items))


def _spread(count: int, items: int | None) -> Sequence[int]:
    return range(count) if items is None else spread_indices(count, min(items, count))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _size(size: ImageSize) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size
