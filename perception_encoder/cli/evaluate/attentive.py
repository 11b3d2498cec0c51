"""`pe eval attentive`: classify by a cross-attention block over a layer's tokens."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli.evaluate import options
from perception_encoder.cli.options import HEAD, LayeredModel, numbers, option


def attentive(
    model: LayeredModel,
    data: options.Classes,
    split: options.Split = "test",
    train: options.Train = None,
    media: options.Media = None,
    layer: options.Layer = None,
    epochs: options.Epochs = 20,
    lr: Annotated[str, option("Learning rates to choose from.", "LR,LR,...", HEAD)] = "3e-4,1e-3,3e-3",
    head_seeds: options.HeadSeeds = 3,
    out: options.Out = None,
) -> None:
    """Classify by a trained attention block.

    A cross-attention block is trained on the frozen tokens of a layer, by default the last.

    Examples:

        pe eval attentive builtin --data photos --layer 8 -o attentive.json
    """
    from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig, AttentiveEvaluator
    from perception_encoder.evaluation.classification.splits import load_splits

    config = AttentiveConfig(epochs=epochs, learning_rates=tuple(numbers(lr)), head_seeds=head_seeds)
    tasks = load_splits(data, split, train, options.class_options(media=media))
    encoder, one_layer = options.layer_encoder(model, layer)
    evaluators = [AttentiveEvaluator(task, config, encoder.device) for task in tasks.values()]
    options.finish(evaluators, {"squash": one_layer}, split, encoder.about, out)
