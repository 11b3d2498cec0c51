"""`python -m synthetic.questions`: put the questions of rendered scenes or documents to a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perception_encoder.api import put_questions
from perception_encoder.cli.evaluate_options import questions_command
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.results import Result
from synthetic.command_line import run_command
from synthetic.questions.tasks import SPLIT, find_task, read_rendered

DATASETS = ("scenes", "scene-captions", "documents")


def put(model: str, data: Path, *, dataset: str, split: str, **options: Any) -> Result:
    """Put the questions of a rendered dataset; ConfigError for another name."""
    if dataset not in DATASETS:
        raise ConfigError(f"{dataset!r} is not a rendered dataset; choose one of {', '.join(DATASETS)}")
    name, split = dataset.replace("-", " "), split or SPLIT
    return put_questions(model, find_task(name), read_rendered(name, data, split), split, **options)


questions = questions_command(
    "scenes, scene-captions or documents.",
    """Put the questions of rendered data to a language model.

    Scenes: accuracy, of boxes at IoU 0.5; scene-captions: CIDEr and BLEU; documents: ANLS. The data are the directory
    that `synthetic.scenes` or `synthetic.documents` made; the default split is test. Status 1: some questions could not
    be put; they are listed.

    Examples:

        python -m synthetic.questions scenes builtin-lang --data scenes --records scenes.jsonl -o scenes.json
        python -m synthetic.questions documents facebook/Perception-LM-1B --data documents --blind
    """,
    put,
)

if __name__ == "__main__":
    run_command("synthetic.questions", questions)
