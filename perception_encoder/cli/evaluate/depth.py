"""`pe eval depth`: fit a depth head on a layer."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli.evaluate import options
from perception_encoder.cli.options import LayeredModel, PerMetre, Size, flag, image_size


def depth(
    model: LayeredModel,
    data: options.DenseData,
    layer: options.Layer = None,
    size: Size = None,
    per_metre: PerMetre = 1000.0,
    eigen_crop: Annotated[bool, flag("--eigen-crop", "Score only Eigen's crop, as usual for NYU.")] = False,
    aligned: Annotated[bool, flag("--aligned", "Align medians before scoring: relative depth.")] = False,
    epochs: options.Epochs = 20,
    channels: options.Channels = 64,
    head_seeds: options.HeadSeeds = 3,
    out: options.Out = None,
) -> None:
    """Fit a depth head: RMSE in metres.

    Also the absolute relative error and the shares within 1.25, 1.25² and 1.25³. The head is in the style of DPT.

    PATH holds train and test, as tars or directories of KEY.jpg with KEY.depth.png, or of NYU's rgb_N.jpg with
    sync_depth_N.png; or it is one tar or directory, trained on its first three fifths. Images of one directory, or of a
    path without train and test, are one sequence, and one block of the interval; a single sequence has no interval.
    Rendered scenes have objects of any size, so images do not show the scale: use --aligned.

    Examples:

        pe eval depth PE-Core-G14-448 --data nyu --layer 38 --channels 256 --eigen-crop -o depth.json
        pe eval depth builtin --data livingroom.tar --layer 6 --size 240x320
        pe eval depth builtin --data scenes --layer 8 --aligned
    """
    from perception_encoder.datasets.rgbd import read_depth_splits
    from perception_encoder.dense_prediction.depth import DepthConfig
    from perception_encoder.dense_prediction.head_fitting import FitConfig
    from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol

    pixels = image_size(size)
    head = DepthConfig(channels=channels, fit=FitConfig(epochs=epochs))
    head = head.relative() if aligned else head
    protocol = DepthProtocol(head=head, head_seeds=head_seeds, eigen_crop=eigen_crop, aligned=aligned)
    evaluator = DepthEvaluator(*read_depth_splits(data, per_metre), protocol, pixels)
    encoder, one_layer = options.layer_encoder(model, layer)
    options.finish([evaluator], {"squash": one_layer}, "test", encoder.about, out)
