"""`pe eval tracking`: track objects by the similarity of patches."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli.evaluate import options
from perception_encoder.cli.options import FinalNorm, LayeredModel, option


def tracking(
    model: LayeredModel,
    data: options.DenseData,
    layer: options.Layer = None,
    final_norm: FinalNorm = False,
    short_side: Annotated[int, option("Short side of the frames, in pixels; DAVIS: 480.", least=16)] = 480,
    frames: Annotated[int, option("Earlier frames to compare with, besides the first.", least=1)] = 7,
    out: options.Out = None,
) -> None:
    """Track objects through videos: J&F.

    Also J and F alone, as in DAVIS. The mask of the first frame is propagated to similar patches of later frames;
    nothing is trained. PATH: a DAVIS directory (JPEGImages, Annotations), a tar, or a directory of tars or directories,
    each with NNNNN.jpg and NNNNN.png, or of rendered videos.

    Examples:

        pe eval tracking PE-Core-G14-448 --data DAVIS --layer 31 -o tracking.json
        pe eval tracking builtin --data davis --layer 5 --short-side 240
    """
    from perception_encoder.datasets.masked_videos import read_videos
    from perception_encoder.dense_prediction.tracking.label_propagation import PropagationConfig
    from perception_encoder.evaluation.dense.tracking import TrackingConfig, TrackingEvaluator

    config = TrackingConfig(short_side=short_side, propagation=PropagationConfig(frames=frames))
    videos = read_videos(data)
    encoder, one_layer = options.layer_encoder(model, layer, final_norm)
    options.finish([TrackingEvaluator(videos, config)], {"": one_layer}, data.stem, encoder.about, out)
