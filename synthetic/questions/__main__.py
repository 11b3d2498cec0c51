"""`python -m synthetic.questions`: put the questions of rendered scenes or documents to a language model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from perception_encoder.cli import evaluate_options as options
from perception_encoder.cli import language
from perception_encoder.cli.evaluate_questions import Blind, Data, Items, Model, Records, Split, put_questions
from perception_encoder.cli.options import argument
from synthetic.command_line import run_command


class Dataset(StrEnum):
    """The datasets, as the command has them."""

    SCENES = "scenes"
    CAPTIONS = "scene-captions"
    DOCUMENTS = "documents"


def questions(
    dataset: Annotated[Dataset, argument("DATASET", "scenes, scene-captions or documents.")],
    model: Model,
    data: Data,
    split: Split = "",
    items: Items = None,
    blind: Blind = False,
    frames: language.Frames = 8,
    tiles: language.Tiles = None,
    records: Records = None,
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
    from synthetic.questions.tasks import SPLIT, find_task, read_rendered

    name = dataset.replace("-", " ")
    read = read_rendered(name, data, split)
    put_questions(find_task(name), read, model, split or SPLIT, items, blind, frames, tiles, records, out)


if __name__ == "__main__":
    run_command("synthetic.questions", questions)
