"""`pe eval segmentation` and `pe eval detection`: what and where things are, read off a layer."""

from __future__ import annotations

from typing import Annotated

import typer

from perception_encoder.cli import eval_dense
from perception_encoder.cli import eval_options as options
from perception_encoder.cli.dense_options import (
    Channels,
    Data,
    Epochs,
    HeadSeeds,
    Model,
    Size,
    image_size,
    layer_encoder,
)
from perception_encoder.cli.progress import track

app = typer.Typer()
app.add_typer(eval_dense.app)


@app.command()
def segmentation(
    model: Model,
    data: Data,
    layer: options.Layer = None,
    size: Size = None,
    epochs: Epochs = 20,
    kernel: Annotated[int, typer.Option(min=1, help="Patches along a side: 1 is linear, 3 a convolution.")] = 1,
    head_seeds: HeadSeeds = 3,
    out: options.Out = None,
) -> None:
    """Fit a linear head on a layer: mIoU, and the share of pixels that are right.

    DATA: rendered scenes (train/*.tar and test/*.tar with KEY.jpg, KEY.mask.png, KEY.json), or ADE20K's images and
    annotations.

    Examples:

        pe eval segmentation PE-Spatial-G14-448 --data ADEChallengeData2016 --size 518 -o segmentation.json
        pe eval segmentation builtin --data scenes --layer 8 --kernel 3
    """
    from perception_encoder.datasets.class_masks import read_class_splits
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.dense_prediction.segmentation import SegmentationConfig
    from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator, SegmentationProtocol

    pixels = image_size(size)
    head = SegmentationConfig(kernel=kernel, fit=FitConfig(epochs=epochs))
    protocol = SegmentationProtocol(head=head, head_seeds=head_seeds)
    evaluator = SegmentationEvaluator(*read_class_splits(data), protocol, pixels, track=track)
    encoder, one_layer = layer_encoder(model, layer)
    options.finish([evaluator], {"squash": one_layer}, "test", encoder.about, out)


@app.command()
def detection(
    model: Model,
    data: Data,
    layer: options.Layer = None,
    size: Size = None,
    epochs: Epochs = 15,
    channels: Channels = 64,
    head_seeds: HeadSeeds = 3,
    any_kind: Annotated[bool, typer.Option("--any-kind", help="Boxes of things of any kind, as one class.")] = False,
    out: options.Out = None,
) -> None:
    """Fit Mask R-CNN over a frozen layer: AP of boxes and of masks, as COCO or LVIS define them.

    DATA: COCO's or LVIS's folders (or val's annotations, as annotations/lvis_v1_val.json), rendered scenes
    (train/instances.json, test/instances.json and tars beside them), or a folder with annotations.json, whose first
    three fifths are trained on. Boxes alone will do. A few hundred scenes are too few to tell their kinds of things
    apart: --any-kind.

    Examples:

        pe eval detection PE-Core-G14-448 --data coco --layer 39 --size 1022 --channels 256 -o detection.json
        pe eval detection builtin --data scenes --layer 8 --any-kind
    """
    from perception_encoder.datasets.instances import read_instance_splits
    from perception_encoder.dense_prediction.detection import DetectionConfig
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.evaluation.dense.detection import DetectionEvaluator, DetectionProtocol

    pixels = image_size(size)
    fit = FitConfig(epochs=epochs, batch=8, weight_decay=0.05)
    head = DetectionConfig(channels=channels, hidden=4 * channels, regions=2 * channels, fit=fit)
    protocol = DetectionProtocol(head=head, head_seeds=head_seeds)
    splits = read_instance_splits(data)
    train, test = (part.merge_classes() for part in splits) if any_kind else splits
    encoder, one_layer = layer_encoder(model, layer)
    evaluator = DetectionEvaluator(train, test, protocol, pixels)
    options.finish([evaluator], {"squash": one_layer}, "test", encoder.about, out)
