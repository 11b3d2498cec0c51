"""`pe eval attentive`: what a cross-attention block reads out of a layer's tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from perception_encoder.cli import eval_options as options
from perception_encoder.cli.dense_options import HeadSeeds, layer_encoder

app = typer.Typer()


@app.command()
def attentive(
    model: Annotated[str, typer.Argument(help="Name, alias or checkpoint; timm:NAME; hf:NAME (transformers).")],
    data: options.Data,
    split: options.Split = "test",
    train: options.Train = None,
    layer: options.Layer = None,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    lr: Annotated[str, typer.Option(help="Learning rates to try.")] = "3e-4,1e-3,3e-3",
    head_seeds: HeadSeeds = 3,
    media: options.Media = None,
    out: options.Out = None,
) -> None:
    """Classify by a cross-attention block over all tokens of a layer (the last by default), trained here.

    Examples:

        pe eval attentive builtin --data photos --layer 8 -o attentive.json
    """
    from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig, AttentiveEvaluator
    from perception_encoder.evaluation.classification.splits import load_splits

    config = AttentiveConfig(epochs=epochs, learning_rates=tuple(options.numbers(lr)), head_seeds=head_seeds)
    tasks = load_splits(data, split, train, options.class_options(media=media))
    encoder, one_layer = layer_encoder(model, layer)
    evaluators = [AttentiveEvaluator(task, config, encoder.device) for task in tasks.values()]
    options.finish(evaluators, {"squash": one_layer}, split, encoder.about, out)
