"""`python -m synthetic.questions`: put the questions of rendered scenes or documents to a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli.evaluate import OPTIONS, run
from perception_encoder.cli.options import BY_POSITION, MaxFrames, Tiles, argument
from synthetic.command_line import run_command
from synthetic.questions.tasks import SPLIT, find_task


def questions(
    dataset: Annotated[str, argument("DATASET", "scenes, scene-captions or documents.")],
    model: Annotated[str, OPTIONS["questions.model"], BY_POSITION],
    data: Annotated[Path, OPTIONS["questions.data"]],
    split: Annotated[str, OPTIONS["questions.split"]] = SPLIT,
    items: Annotated[int | None, OPTIONS["items"]] = None,
    blind: Annotated[bool, OPTIONS["blind"]] = False,
    frames: MaxFrames = 8,
    tiles: Tiles = None,
    records: Annotated[Path | None, OPTIONS["records"]] = None,
    out: Annotated[Path | None, OPTIONS["out"]] = None,
) -> None:
    """Put the questions of rendered data to a language model.

    Scenes: accuracy, of boxes at IoU 0.5; scene-captions: CIDEr and BLEU; documents: ANLS. The data are the directory
    that `synthetic.scenes` or `synthetic.documents` made; the default split is test. Status 1: some questions could not
    be put; they are listed.

    Examples:

        python -m synthetic.questions scenes builtin-lang --data scenes --records scenes.jsonl -o scenes.json
        python -m synthetic.questions documents facebook/Perception-LM-1B --data documents --blind
    """
    given = {name: value for name, value in locals().items() if value is not None}
    run("questions", {**given, "dataset": find_task(dataset.replace("-", " "))})


if __name__ == "__main__":
    run_command("synthetic.questions", questions)
