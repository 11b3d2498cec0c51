"""`pe eval knn`: classify by the nearest training items."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli.evaluate import options
from perception_encoder.cli.options import numbers, option


def knn(
    model: options.Embedder,
    data: options.Classes,
    split: options.Split = "test",
    train: options.Train = None,
    media: options.Media = None,
    k: Annotated[str, option("Number of neighbours; several with commas.", "K,K,...")] = "20",
    layer: options.Layer = None,
    pool: options.Pool = None,
    transform: options.Transforms = "squash",
    out: options.Out = None,
) -> None:
    """Classify by the nearest training items.

    A neighbour's vote has the weight exp(similarity / 0.07).

    Examples:

        pe eval knn PE-Core-L14-336 --data imagenet --split val -o knn.json
        pe eval knn -m timm:vit_small_patch14_dinov2 --data photos --k 10,20
        pe eval knn hf:facebook/dinov2-small --layer 8 --pool cls --data photos
    """
    from perception_encoder.evaluation.classification.nearest_neighbours import NeighboursEvaluator
    from perception_encoder.evaluation.classification.splits import load_splits
    from perception_encoder.evaluation.features import cache_features
    from perception_encoder.evaluation.transforms import load_views

    tasks = load_splits(data, split, train, options.class_options(media=media), choosing=False)
    ks = [int(each) for each in numbers(k)]
    encoders, about = load_views(model, transform, layer, pool)
    evaluators = [NeighboursEvaluator(task, ks) for task in tasks.values()]
    options.finish(evaluators, cache_features(encoders), split, about, out)
