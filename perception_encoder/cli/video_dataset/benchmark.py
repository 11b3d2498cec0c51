"""`pe video-dataset benchmark`: retrieval of videos by refined captions, and of captions by videos."""

from __future__ import annotations

from perception_encoder.cli.evaluate import options
from perception_encoder.cli.options import Frames
from perception_encoder.cli.video_dataset.options import Data


def benchmark(
    model: options.TwoTowers,
    data: Data,
    split: options.Split = "test",
    transform: options.Transforms = "squash,crop",
    frames: Frames = 8,
    out: options.Out = None,
) -> None:
    """Evaluate text and video retrieval.

    PVD-Bench: the videos of the split `test` with a refined caption; of the published dataset, 15,000. R@1, R@5 and
    R@10 in both directions, with and without dual softmax, as in `pe eval retrieval`. Needs the extra `eval`.

    Examples:

        pe video-dataset benchmark PE-Video -m PE-Core-L14-336 -o pvd.json
    """
    from perception_encoder.datasets.pe_video import load_benchmark
    from perception_encoder.evaluation.features import cache_features
    from perception_encoder.evaluation.retrieval import RetrievalEvaluator
    from perception_encoder.evaluation.transforms import load_transforms

    captions = load_benchmark(data, split)
    encoders, about = load_transforms(model, transform)
    options.finish([RetrievalEvaluator(captions, frames)], cache_features(encoders), split, about, out)
