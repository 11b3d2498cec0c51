"""`pe eval linear`: classify by logistic regression on frozen embeddings."""

from __future__ import annotations

from perception_encoder.cli.evaluate import options


def linear(
    model: options.Embedder,
    data: options.Classes,
    split: options.Split = "test",
    train: options.Train = None,
    media: options.Media = None,
    layer: options.Layer = None,
    pool: options.Pool = None,
    transform: options.Transforms = "squash",
    out: options.Out = None,
) -> None:
    """Classify by logistic regression.

    Embeddings are frozen and standardised; the regularisation is chosen on `val`, or on a tenth of `train`.

    Examples:

        pe eval linear builtin --data photos --layer 8 -o linear.json
    """
    from perception_encoder.evaluation.classification.linear_probe import LinearEvaluator
    from perception_encoder.evaluation.classification.splits import load_splits
    from perception_encoder.evaluation.features import cache_features
    from perception_encoder.evaluation.transforms import load_views

    tasks = load_splits(data, split, train, options.class_options(media=media))
    encoders, about = load_views(model, transform, layer, pool)
    options.finish(map(LinearEvaluator, tasks.values()), cache_features(encoders), split, about, out)
