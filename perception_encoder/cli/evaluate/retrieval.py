"""`pe eval retrieval`: retrieve images or videos by their captions, and captions by images or videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli.evaluate import options
from perception_encoder.cli.options import Frames

CAPTIONS = "Captions: JSON (COCO, Karpathy, MSR-VTT), a table, or tars with KEY.txt."


def retrieval(
    model: options.TwoTowers,
    data: Annotated[Path, options.data_option(CAPTIONS)],
    media: options.Media = None,
    split: options.Split = "test",
    transform: options.Transforms = "squash,crop",
    frames: Frames = 8,
    out: options.Out = None,
) -> None:
    """Retrieve by captions: R@1, R@5 and R@10.

    In both directions, from raw captions, with and without dual softmax. Dual softmax compares all queries at once, so
    its results are listed separately. The published COCO results (`pe models`) very probably use it.

    Examples:

        pe eval retrieval PE-Core-L14-336 --data captions_val2017.json --media val2017 -o coco.json
        pe eval retrieval PE-Core-L14-336 --data dataset_coco.json --media coco
        pe eval retrieval PE-Core-L14-336 --data wds_flickr8k
        pe eval retrieval PE-Core-L14-336 --data MSRVTT_JSFUSION_test.csv --media MSRVTT/videos
    """
    from perception_encoder.datasets.captioned import load_captions
    from perception_encoder.evaluation.features import cache_features
    from perception_encoder.evaluation.retrieval import RetrievalEvaluator
    from perception_encoder.evaluation.transforms import load_transforms

    captions = load_captions(data, media, split)
    encoders, about = load_transforms(model, transform)
    options.finish([RetrievalEvaluator(captions, frames)], cache_features(encoders), split, about, out)
