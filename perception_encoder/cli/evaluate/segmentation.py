"""`pe eval segmentation`: fit a linear head for semantic segmentation on a layer."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli.evaluate import options
from perception_encoder.cli.options import HEAD, LayeredModel, Size, image_size, option
from perception_encoder.cli.progress import track


def segmentation(
    model: LayeredModel,
    data: options.DenseData,
    layer: options.Layer = None,
    size: Size = None,
    epochs: options.Epochs = 20,
    kernel: Annotated[int, option("Patches along a side: 1 is linear, 3 a convolution.", panel=HEAD, least=1)] = 1,
    head_seeds: options.HeadSeeds = 3,
    out: options.Out = None,
) -> None:
    """Fit a segmentation head: mIoU.

    Also the pixel accuracy. PATH: rendered scenes (`train/*.tar` and `test/*.tar` with KEY.jpg, KEY.mask.png,
    KEY.json), or ADE20K's images and annotations.

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
    encoder, one_layer = options.layer_encoder(model, layer)
    options.finish([evaluator], {"squash": one_layer}, "test", encoder.about, out)
