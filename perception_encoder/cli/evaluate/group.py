"""`pe eval`: the group of evaluations."""

from __future__ import annotations

from perception_encoder.cli.groups import lazy_group

QUESTIONS = (
    *("vqa", "okvqa", "textvqa", "docvqa", "infovqa", "chartqa", "ai2d", "pope", "mvbench", "captions"),
    *("refcoco", "refcocoplus", "refcocog", "scenes", "scene-captions", "documents"),
)
"""The commands of the module `language`, one for each dataset."""
COMMANDS = {
    "Zero-shot": {"classification": "evaluate.classification", "retrieval": "evaluate.retrieval"},
    "Probes": {"knn": "evaluate.knn", "linear": "evaluate.linear", "attentive": "evaluate.attentive"},
    "Dense tasks": {
        "segmentation": "evaluate.segmentation",
        "detection": "evaluate.detection",
        "tracking": "evaluate.tracking",
        "depth": "evaluate.depth",
    },
    "Questions and captions": dict.fromkeys(QUESTIONS, "evaluate.language"),
    "Results": {"compare": "evaluate.compare", "suite": "evaluate.suite", "page": "evaluate.page"},
}

app = lazy_group(COMMANDS)


@app.callback()
def evaluate() -> None:
    """Evaluate a model on datasets.

    Needs the extra `eval`. Datasets, layouts and protocols: docs/evaluation.md.

    Examples:

        pe eval classification PE-Core-L14-336 --data imagenet --split val --classes imagenet -o in1k.json
        pe eval knn timm:vit_small_patch14_dinov2 --data photos -o dino.json
        pe eval compare dino.json builtin.json
    """
