"""`python -m experiments.language.builtin`: evaluate the built-in language model beside its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from experiments.command_line import Out, Runs, announce, run_experiment
from perception_encoder.cli.options import option
from perception_encoder.conversation.assistant import Assistant
from perception_encoder.datasets.questions.question import Question
from perception_encoder.evaluation.language.evaluators import (
    Answered,
    QuestionEvaluator,
    open_media_of,
    score_answers,
)
from perception_encoder.evaluation.statistics.scores import Score, measure
from perception_encoder.files import write_json
from perception_encoder.preprocess.conversation import MediaPart
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.progress import Track, untracked
from synthetic.questions.tasks import find_task, read_rendered

MODEL, BLIND, NEAREST = "built-in", "without the image", "caption of the nearest training image"
RETRIEVED = 4000
"""Training scenes whose captions the baseline chooses from."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A row of the table: which questions, and the least score that was aimed at."""

    name: str
    dataset: str
    groups: tuple[str, ...] = ()
    """Of the dataset's questions; empty for all."""
    least: float | None = None


AIMS = (
    Aim(name="yes or no: is there a …?", dataset="scenes", groups=("exists",), least=0.85),
    Aim(name="yes or no: is it left of …?", dataset="scenes", groups=("relation",)),
    Aim(name="how many?", dataset="scenes", groups=("count",), least=0.6),
    Aim(name="what colour?", dataset="scenes", groups=("colour",), least=0.85),
    Aim(name="which object is left of …?", dataset="scenes", groups=("which",), least=0.6),
    Aim(name="where is it?", dataset="scenes", groups=("where",)),
    Aim(name="box of an object", dataset="scenes", groups=("grounding",), least=0.5),
    Aim(name="total of a receipt", dataset="documents", groups=("total",), least=0.5),
    Aim(name="captions", dataset="scene captions"),
)


def evaluate_builtin(
    result: Path,
    runs: Path,
    model: Assistant,
    data: dict[str, Path],
    items: int,
    splits: Sequence[str] = ("test",),
    track: Track = untracked,
) -> dict[str, Any]:
    """Evaluate what has no records in `runs`, write the result as JSON, and return it.

    `data`: directories of "scenes" and "documents". `items`: questions of each row. A row without data in a split is
    left out.
    """
    tables = {split: _evaluate_split(split, runs, model, data, items, track) for split in splits}
    value = {"model": model.name, "items": items, "splits": tables}
    write_json(result, value, indent=1)
    return value


def _evaluate_split(
    split: str, runs: Path, model: Assistant, data: dict[str, Path], items: int, track: Track
) -> list[dict[str, Any]]:
    rows = []
    for aim in AIMS:
        root = data["documents" if aim.dataset == "documents" else "scenes"]
        if not (root / split).exists():
            continue
        read = read_rendered(aim.dataset, root, split)
        questions = [replace(item, group="") for item in read if not aim.groups or item.group in aim.groups]
        questions = [questions[row] for row in spread_indices(len(questions), min(items, len(questions)))]
        scores = {}
        for name, blind in ((MODEL, False), (BLIND, True)):
            records = runs / f"{aim.dataset}-{'-'.join(aim.groups)}-{split}{'-blind' * blind}.jsonl"
            records.parent.mkdir(parents=True, exist_ok=True)
            evaluator = QuestionEvaluator(find_task(aim.dataset), questions, records, blind=blind)
            first = next(evaluator.run(model, track))
            scores[name] = _of_score(first)
        if aim.dataset == "scene captions":
            scores[NEAREST] = _of_score(nearest_captions(questions, read_rendered(aim.dataset, root, "train"), track))
        rows.append({"name": aim.name, "metric": first.name, "aim": aim.least, "scores": scores})
    return rows


def nearest_captions(questions: Sequence[Question], train: Sequence[Question], track: Track = untracked) -> Score:
    """CIDEr of the captions of those training images whose embedding by the built-in encoder is nearest."""
    import perception_encoder as pe

    encoder = pe.load("builtin")
    known = [train[row] for row in spread_indices(len(train), min(RETRIEVED, len(train)))]
    vectors = [encoder.encode_images([_image(item) for item in part]) for part in (questions, known)]
    nearest = np.argmax(vectors[0] @ vectors[1].T, axis=1)
    answered = [Answered(question, known[row].answers[0]) for question, row in zip(questions, nearest, strict=True)]
    return measure(score_answers(find_task("scene captions"), answered)[0])


def _image(question: Question) -> MediaPart:
    (image,) = open_media_of(question)
    return image


def _of_score(score: Score) -> dict[str, Any]:
    return {"value": score.value, "interval": score.interval, "n": score.n, "unit": score.unit}


def builtin(
    scenes: Annotated[Path, option("Rendered scenes.", "DIR")],
    documents: Annotated[Path, option("Rendered receipts.", "DIR")],
    model: Annotated[str, option("Model or run to evaluate.", "MODEL")] = "builtin-lang",
    items: Annotated[int, option("Questions of each row.", "N", least=1)] = 200,
    split: Annotated[list[str] | None, option("Split of both [default: test]; repeat.", "NAME")] = None,
    runs: Runs = Path("runs/language_builtin_answers"),
    out: Out = Path("builtin_language.json"),
) -> None:
    """Evaluate the built-in language model beside its baselines; a stopped run resumes.

    Examples:

        python -m experiments.language.builtin --scenes scenes --documents receipts --split val --split test \\
            -o builtin_language.json
    """
    from perception_encoder.cli.output import track
    from perception_encoder.inference.model_spec import ModelSpec
    from perception_encoder.language_models.load import load_language_model

    data = {"scenes": scenes, "documents": documents}
    splits = split or ["test"]
    evaluate_builtin(out, runs, load_language_model(ModelSpec(model)), data, items, splits, track)
    announce(out)


if __name__ == "__main__":
    run_experiment("language.builtin", builtin)
