"""`pe eval vqa`, `textvqa`, `docvqa` …: put the questions of a dataset to a language model, one command a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli import evaluate_options as options
from perception_encoder.cli import language
from perception_encoder.cli.options import BY_POSITION, MEDIA, OUTPUT, flag, model_option, option

if TYPE_CHECKING:
    from perception_encoder.datasets.questions.question import Question
    from perception_encoder.evaluation.language.tasks import LanguageTask

Model = Annotated[str, model_option(others="builtin-lang; a run of `pe train`; facebook/Perception-LM-1B"), BY_POSITION]
Data = Annotated[Path, options.data_option("The dataset as published, or its Parquet files from the hub.")]
Split = Annotated[str, options.data_option("Split [default: the one that papers report].", "NAME")]
Items = Annotated[int | None, options.data_option("Most questions, at even intervals [default: all].", "N", least=1)]
Blind = Annotated[bool, flag("--blind", "Show no image: what the model knows without looking.", MEDIA)]
Records = Annotated[Path | None, option("JSONL file of all answers; a run resumes from it.", "FILE", OUTPUT)]
TASKS: dict[str, tuple[str, str, str]] = {
    "vqa": ("vqav2", "VQAv2: VQA accuracy.", "Questions about photographs, each answered by ten people."),
    "okvqa": ("okvqa", "OK-VQA: VQA accuracy.", "Questions about photographs that need general knowledge."),
    "textvqa": ("textvqa", "TextVQA: VQA accuracy.", "Questions about text in photographs."),
    "docvqa": ("docvqa", "DocVQA: ANLS.", "Questions about scanned documents; small text needs tiles."),
    "infovqa": ("infovqa", "InfographicVQA: ANLS.", "Questions about infographics; small text needs tiles."),
    "chartqa": ("chartqa", "ChartQA: relaxed accuracy.", "Questions about charts; numbers are right within 5 %."),
    "ai2d": ("ai2d", "AI2D: accuracy.", "Multiple choice about diagrams of school books."),
    "pope": ("pope", "POPE: accuracy and F1.", "Whether an object is in a photograph: yes or no."),
    "mvbench": ("mvbench", "MVBench: accuracy.", "Multiple choice about videos, the mean over twenty tasks."),
    "captions": ("coco", "COCO captions: CIDEr and BLEU.", "One sentence for each photograph."),
    "refcoco": ("refcoco", "RefCOCO: accuracy at IoU 0.5.", "The box of an object that a phrase describes."),
    "refcocoplus": ("refcoco+", "RefCOCO+: accuracy at IoU 0.5.", "As refcoco, by phrases without positions."),
    "refcocog": ("refcocog", "RefCOCOg: accuracy at IoU 0.5.", "As refcoco, by longer phrases."),
}
PUBLISHED = """One of the datasets of the paper's section 4. PATH: the published files, or the Parquet
    files of the hub; docs/language.md shows the layouts."""
"""Commands: the dataset's name in `read_questions`, and the first sentences of the help."""


def __getattr__(name: str) -> Callable[..., None]:
    """Return a command by its name, as it is looked up when it runs."""
    if name not in TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _command(name, *TASKS[name])


def _command(name: str, dataset: str, short: str, about: str) -> Callable[..., None]:
    def evaluate(
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
        from perception_encoder.datasets.questions.read import default_split, read_questions

        questions = read_questions(dataset, data, split)
        split = split or default_split(dataset)
        put_questions(dataset, questions, model, split, items, blind, frames, tiles, records, out)

    evaluate.__doc__ = f"""{short}

    {about} {PUBLISHED} Status 1: some
    questions could not be put; they are listed.

    Examples:

        pe eval {name} builtin-lang --data {dataset} --records {name}.jsonl -o {name}.json
        pe eval {name} facebook/Perception-LM-1B --data {dataset} --blind
    """
    return evaluate


def put_questions(
    task: str | LanguageTask,
    questions: Sequence[Question],
    model: str,
    split: str,
    items: int | None,
    blind: bool,
    frames: int,
    tiles: int | None,
    records: Path | None,
    out: Path | None,
) -> None:
    """Put a dataset's questions to a language model, print and write the result, and exit."""
    from perception_encoder.evaluation.language.evaluators import QuestionEvaluator
    from perception_encoder.language_alignment.load import load_language_model
    from perception_encoder.preprocess.frames import spread_indices

    if items is not None:
        questions = [questions[row] for row in spread_indices(len(questions), min(items, len(questions)))]
    generator = load_language_model(model, tiles=tiles)
    evaluator = QuestionEvaluator(task, questions, records, frames, blind)
    about = {"decoder": generator.decoder.name, "tiles": str(generator.media.tiles)}
    options.finish([evaluator], {"": generator}, split, about, out)
