"""`pe eval detection`: fit Mask R-CNN on a frozen layer."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli.evaluate import options
from perception_encoder.cli.options import LayeredModel, Size, flag, image_size


def detection(
    model: LayeredModel,
    data: options.DenseData,
    layer: options.Layer = None,
    size: Size = None,
    class_agnostic: Annotated[bool, flag("--class-agnostic", "Detect objects as one class: boxes only.")] = False,
    epochs: options.Epochs = 15,
    channels: options.Channels = 64,
    head_seeds: options.HeadSeeds = 3,
    out: options.Out = None,
) -> None:
    """Fit a detection head: AP of boxes and masks.

    Mask R-CNN over a frozen layer; AP as COCO or LVIS define it. PATH: the directory of COCO, LVIS or Objects365 (or
    the annotations of val, such as annotations/lvis_v1_val.json), rendered scenes (train/instances.json,
    test/instances.json and tars beside them), or a directory with annotations.json, trained on its first three fifths.
    Masks are optional. A few hundred scenes are too few to tell classes apart: use --class-agnostic.

    Examples:

        pe eval detection PE-Core-G14-448 --data coco --layer 39 --size 1022 --channels 256 -o detection.json
        pe eval detection builtin --data scenes --layer 8 --class-agnostic
    """
    from perception_encoder.datasets.instances import read_instance_splits
    from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.evaluation.dense.detection import DetectionEvaluator, DetectionProtocol

    pixels = image_size(size)
    fit = FitConfig(epochs=epochs, batch=8, weight_decay=0.05)
    head = DetectionConfig(channels=channels, hidden=4 * channels, regions=2 * channels, fit=fit)
    protocol = DetectionProtocol(head=head, head_seeds=head_seeds)
    splits = read_instance_splits(data)
    train, test = (part.merge_classes() for part in splits) if class_agnostic else splits
    encoder, one_layer = options.layer_encoder(model, layer)
    evaluator = DetectionEvaluator(train, test, protocol, pixels)
    options.finish([evaluator], {"squash": one_layer}, "test", encoder.about, out)
