"""`pe eval knn` and `pe eval linear`: what a model's vectors say without and with a linear layer."""

from __future__ import annotations

from typing import Annotated

import typer

from perception_encoder.cli import eval_options as options

app = typer.Typer()

Pool = Annotated[str | None, typer.Option(help="attn, cls or mean; of timm: and hf: cls or mean.")]


@app.command()
def knn(
    model: options.Tower,
    data: options.Data,
    split: options.Split = "test",
    k: Annotated[str, typer.Option(help="Neighbours; several with commas.")] = "20",
    train: options.Train = None,
    layer: options.Layer = None,
    pool: Pool = None,
    transform: options.Transforms = "squash",
    media: options.Media = None,
    out: options.Out = None,
) -> None:
    """Classify by the most similar training items, whose votes weigh exp(similarity / 0.07).

    Examples:

        pe eval knn PE-Core-L14-336 --data imagenet --split val -o knn.json
        pe eval knn timm:vit_small_patch14_dinov2 --data photos --k 10,20
        pe eval knn hf:facebook/dinov2-small --layer 8 --pool cls --data photos
    """
    from perception_encoder.evaluation.classification.nearest_neighbours import NeighboursEvaluator
    from perception_encoder.evaluation.classification.splits import load_splits
    from perception_encoder.evaluation.features import cache_features
    from perception_encoder.evaluation.transforms import load_views

    tasks = load_splits(data, split, train, options.class_options(media=media), choosing=False)
    ks = [int(each) for each in options.numbers(k)]
    encoders, about = load_views(model, transform, layer, pool)
    evaluators = [NeighboursEvaluator(task, ks) for task in tasks.values()]
    options.finish(evaluators, cache_features(encoders), split, about, out)


@app.command()
def linear(
    model: options.Tower,
    data: options.Data,
    split: options.Split = "test",
    train: options.Train = None,
    layer: options.Layer = None,
    pool: Pool = None,
    transform: options.Transforms = "squash",
    media: options.Media = None,
    out: options.Out = None,
) -> None:
    """Classify by logistic regression on frozen vectors; its strength is chosen on `val`, or on a tenth of `train`.

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
