"""`pe eval tracking` and `pe eval depth`: where things go, and how far they are, read off a layer."""

from __future__ import annotations

from typing import Annotated

import typer

from perception_encoder.cli import eval_options as options
from perception_encoder.cli.dense_options import (
    Channels,
    Data,
    Epochs,
    FinalNorm,
    HeadSeeds,
    Model,
    PerMetre,
    Size,
    image_size,
    layer_encoder,
)

app = typer.Typer()


@app.command()
def tracking(
    model: Model,
    data: Data,
    layer: options.Layer = None,
    short_side: Annotated[int, typer.Option(min=16, help="Of the frames, in pixels; DAVIS's figures: 480.")] = 480,
    frames: Annotated[int, typer.Option(min=1, help="Earlier frames that a patch asks, beside the first.")] = 7,
    final_norm: FinalNorm = False,
    out: options.Out = None,
) -> None:
    """Follow the objects of a video's first mask by likeness of patches, without training: J&F, J and F as in DAVIS.

    DATA: a DAVIS folder (JPEGImages, Annotations), a tar, or a folder of tars or folders, each of NNNNN.jpg with
    NNNNN.png, or of rendered videos.

    Examples:

        pe eval tracking PE-Core-G14-448 --data DAVIS --layer 31 -o tracking.json
        pe eval tracking builtin --data davis --layer 5 --short-side 240
    """
    from perception_encoder.datasets.masked_videos import read_videos
    from perception_encoder.dense_prediction.label_propagation import PropagationConfig
    from perception_encoder.evaluation.dense.tracking import TrackingConfig, TrackingEvaluator

    config = TrackingConfig(short_side=short_side, propagation=PropagationConfig(frames=frames))
    videos = read_videos(data)
    encoder, one_layer = layer_encoder(model, layer, final_norm)
    options.finish([TrackingEvaluator(videos, config)], {"": one_layer}, data.stem, encoder.about, out)


@app.command()
def depth(
    model: Model,
    data: Data,
    layer: options.Layer = None,
    size: Size = None,
    epochs: Epochs = 20,
    channels: Channels = 64,
    per_metre: PerMetre = 1000.0,
    head_seeds: HeadSeeds = 3,
    eigen_crop: Annotated[bool, typer.Option("--eigen-crop", help="Score what NYU's figures are of.")] = False,
    aligned: Annotated[bool, typer.Option("--aligned", help="Give guesses the right median: relative depth.")] = False,
    out: options.Out = None,
) -> None:
    """Fit a DPT-style head on a layer: RMSE in metres, absolute relative error, shares within 1.25, 1.25², 1.25³.

    DATA: train and test, as tars or folders of KEY.jpg with KEY.depth.png, or of NYU's rgb_N.jpg with sync_depth_N.png;
    or one tar or folder, whose first three fifths are trained on. Images of one folder, or of a path without train and
    test, are frames of one sequence, and one block of the interval; a single sequence has none. Scenes are of things of
    any size, so that pictures do not tell how far they are: --aligned.

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
    encoder, one_layer = layer_encoder(model, layer)
    options.finish([evaluator], {"squash": one_layer}, "test", encoder.about, out)
