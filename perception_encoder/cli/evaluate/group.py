"""`pe eval`: the group of evaluations."""

from __future__ import annotations

from perception_encoder.cli.groups import lazy_group

PANELS = {
    "Zero-shot": ("classification", "retrieval"),
    "Probes": ("knn", "linear", "attentive"),
    "Dense tasks": ("segmentation", "detection", "tracking", "depth"),
    "Results": ("compare", "suite", "page"),
}

app = lazy_group(
    {name: f"perception_encoder.cli.evaluate.{name}" for names in PANELS.values() for name in names}, PANELS
)


@app.callback()
def evaluate() -> None:
    """Evaluate a model on datasets.

    Needs the extra `eval`. Datasets, layouts and protocols: docs/evaluation.md.

    Examples:

        pe eval classification PE-Core-L14-336 --data imagenet --split val --classes imagenet -o in1k.json
        pe eval knn timm:vit_small_patch14_dinov2 --data photos -o dino.json
        pe eval compare dino.json builtin.json
    """
