"""`python -m synthetic.questions`: put the questions of rendered scenes or documents to a language model."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli import evaluate as options
from perception_encoder.cli.options import MaxFrames, Tiles, argument
from synthetic.command_line import run_command
from synthetic.questions.tasks import SPLIT, find_task


def questions(
    dataset: Annotated[str, argument("DATASET", "scenes, scene-captions or documents.")],
    model: options.AskedModel,
    data: options.QuestionData,
    split: options.QuestionSplit = SPLIT,
    items: options.Items = None,
    blind: options.Blind = False,
    frames: MaxFrames = 8,
    tiles: Tiles = None,
    records: options.Records = None,
    out: options.Out = None,
) -> None:
    """Put the questions of rendered data to a language model.

    Scenes: accuracy, of boxes at IoU 0.5; scene-captions: CIDEr and BLEU; documents: ANLS. The data are the directory
    that `synthetic.scenes` or `synthetic.documents` made; the default split is test. Status 1: some questions could not
    be put; they are listed.

    Examples:

        python -m synthetic.questions scenes builtin-lang --data scenes --records scenes.jsonl -o scenes.json
        python -m synthetic.questions documents facebook/Perception-LM-1B --data documents --blind
    """
    options.run("questions", **{**locals(), "dataset": find_task(dataset.replace("-", " "))})


if __name__ == "__main__":
    run_command("synthetic.questions", questions)
