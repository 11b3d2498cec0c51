"""`pe eval`: zero-shot evaluation, probes, dense tasks, questions and results."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from perception_encoder.api import evaluations
from perception_encoder.cli import output
from perception_encoder.cli.groups import lazy_group
from perception_encoder.cli.options import (
    BY_POSITION,
    DATASET,
    HEAD,
    LIBRARIES,
    MEDIA,
    OUTPUT,
    TRUSTING,
    FinalNorm,
    Frames,
    MaxFrames,
    PerMetre,
    Size,
    Tiles,
    argument,
    flag,
    image_size,
    model_option,
    numbers,
    option,
    out_option,
)
from perception_encoder.cli.output import track
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.models.registry import demo_note

if TYPE_CHECKING:
    from perception_encoder.evaluation.results import Result

FAMILIES = {
    "Zero-shot": ("classification", "retrieval"),
    "Probes": ("knn", "linear", "attentive"),
    "Dense tasks": ("segmentation", "detection", "tracking", "depth"),
    "Questions": ("questions",),
    "Results": ("compare",),
}
COMMANDS = {family: {name: f"evaluate:{name}" for name in names} for family, names in FAMILIES.items()}
app = lazy_group(COMMANDS)
QUESTION_SETS = (
    "vqav2, okvqa, textvqa, docvqa, infovqa, chartqa, ai2d, pope, mvbench, videomme, egoschema, perceptiontest, star, "
    "tgifqa, coco, flickr30k, nocaps, refcoco, refcoco+ or refcocog."
)
PROMPTS = (
    "photo (25), imagenet (80), kinetics (28), actions (48: UCF101, HMDB51), name or a file; commas between "
    "[default: the dataset's, or imagenet]."
)
CAPTIONS = "Captions: JSON (COCO, Karpathy, MSR-VTT), a table, tars with KEY.txt, or a name: coco, flickr30k, …"
OWN = "crop for models with their own preprocessing"
ResultFile = Annotated[Path, argument("FILE", "JSON written by a command of `pe eval` with -o.")]
ZERO_SHOT, LABELLED = ("classification", "retrieval"), ("classification", "knn", "linear", "attentive")


def data_option(text: str, metavar: str = "PATH", least: float | None = None, *, advanced: bool = False) -> Any:
    """An option of the dataset."""
    return option(text, metavar, DATASET, least=least, advanced=advanced)


OPTIONS: dict[str, Any] = {
    "data": data_option("Dataset: see above."),
    "split": data_option("Split to evaluate: a subdirectory, or a value in the annotations.", "NAME"),
    "train": data_option("Dataset with the training split [default: that of --data]."),
    "media": data_option("Directory of the files listed in --data [default: next to it].", "DIR"),
    "items": data_option("Maximum number of items, at even intervals [default: all].", "N", 1),
    "classes": data_option("Class names: imagenet, or a file of names [default: the directories' names].", "FILE"),
    "mapping": data_option("JSON of the labels to use and their names.", "FILE", advanced=True),
    "onto": data_option(
        "With --mapping: choose among imagenet's classes, or those of a class file.", "FILE", advanced=True
    ),
    "trim": data_option("Pixels to cut off each side; ObjectNet's border: 2.", "N", 0, advanced=True),
    "prompts": option(PROMPTS, "NAMES"),
    "transform": option(f"squash, crop, or both [default: squash; {OWN}].", "NAMES"),
    "k": option("Number of neighbours; several with commas.", "K,K,..."),
    "layer": option("Layer: 0, 1, … or -1, -2, … [default: the model's output].", "N"),
    "pool": option("attn, cls or mean; for timm: and hf: models cls or mean.", "NAME", advanced=True),
    "epochs": option("Passes over the training images.", panel=HEAD, least=1),
    "channels": option("Width of the head; published results: 256.", panel=HEAD, least=4),
    "kernel": option("Patches along a side: 1 is linear, 3 a convolution.", panel=HEAD, least=1),
    "head_seeds": option(
        "Heads to fit, each with its own seed; 1 gives no interval.", panel=HEAD, least=1, advanced=True
    ),
    "short_side": option("Short side of the frames, in pixels; DAVIS: 480.", least=16),
    "class_agnostic": flag("--class-agnostic", "Detect objects as one class: boxes only."),
    "eigen_crop": flag("--eigen-crop", "Score only Eigen's crop, as usual for NYU."),
    "aligned": flag("--aligned", "Align medians before scoring: relative depth."),
    "blind": flag("--blind", "Show no image: what the model knows without looking.", MEDIA),
    "records": option("JSONL file of all answers; a run resumes from it.", "FILE", OUTPUT),
    "dataset": argument("DATASET", QUESTION_SETS),
    "size": Size,
    "per_metre": PerMetre,
    "final_norm": FinalNorm,
    "frames": Frames,
    "tiles": Tiles,
    "model": model_option(others="timm:NAME; hf:NAME (transformers); random:NAME for random weights"),
    "out": out_option("JSON file of all results, for `pe eval compare`."),
    **dict.fromkeys(
        [f"{task}.data" for task in LABELLED],
        data_option("Class directories, shards with labels or .cls, or a table; zero-shot also a name: food101, …"),
    ),
    **dict.fromkeys(
        [f"{task}.model" for task in ZERO_SHOT],
        model_option(others="open_clip:NAME,WEIGHTS; hf:NAME (transformers); st:NAME"),
    ),
    **dict.fromkeys(
        [f"{task}.transform" for task in ZERO_SHOT], option(f"squash, crop, or both [default: both; {OWN}].", "NAMES")
    ),
    **dict.fromkeys(["knn.model", "linear.model"], model_option(others=LIBRARIES)),
    "retrieval.data": data_option(CAPTIONS),
    "questions.data": data_option("The dataset as published, its Parquet files from the hub, or its name."),
    "questions.split": data_option("Split [default: the one that papers report].", "NAME"),
    "questions.frames": MaxFrames,
    "questions.model": model_option(
        others="facebook/Perception-LM-1B; a run of `pe train`; http://HOST/v1#MODEL, an endpoint; hf:NAME; "
        "python:MODULE:FUNCTION; builtin-lang"
    ),
}
"""Options by the argument's name in a task's function; after the task's own name where it has its own."""
KINDS: dict[str, Any] = {
    "int": int,
    "int | None": int | None,
    "float": float,
    "bool": bool,
    "str | None": str | None,
    "str | Path": Path,
    "str | Path | None": Path | None,
    "ImageSize": str | None,
}
"""The type of an option by that of the argument; the others are texts."""


def make_command(task: str) -> Callable[..., None]:
    """Make the command of a task: the signature and the docstring of its call are its options and its help."""
    call = evaluations()[task]
    parameters = [item for item in inspect.signature(call).parameters.values() if item.name != "progress"]
    parameters.sort(key=lambda item: item.name != "dataset")  # an argument comes first
    arguments = [(item.name, KINDS.get(item.annotation, str), item.default) for item in parameters]
    arguments.append(("out", Path | None, None))
    made = []
    for name, kind, default in arguments:
        found = OPTIONS.get(f"{task}.{name}", OPTIONS.get(name))
        info = get_args(found)[1] if get_origin(found) is Annotated else found
        annotation: Any = Annotated[kind, info]
        if name == "model":
            trusting = {} if task == "questions" else TRUSTING
            annotation = Annotated[ModelSpec, {"model": Annotated[str, info, BY_POSITION], **trusting}]
        default = str(default) if name == "k" else default
        made.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    defaults = {name: default for name, _, default in arguments}

    def command(**given: Any) -> None:
        run(task, {name: value for name, value in given.items() if value != defaults[name]})

    command.__dict__["__signature__"] = inspect.Signature(made)
    command.__annotations__ = {item.name: item.annotation for item in made}
    command.__doc__ = call.__doc__
    return command


def run(task: str, given: dict[str, Any]) -> None:
    """Evaluate by `perception_encoder.evaluate`, with a command's arguments that are not defaults; show the result.

    Options at their default are left to a published dataset.
    """
    from perception_encoder.api import evaluate

    out, model = given.pop("out", None), given.pop("model")
    if "k" in given:
        given["k"] = [int(number) for number in numbers(given["k"])]
    if "size" in given:
        given["size"] = image_size(given["size"])
    show(evaluate(task, model, given.pop("data"), progress=track, **given), out)


def show(result: Result, out: Path | None) -> None:
    """Write the JSON, print the table, list undecodable items, and exit."""
    from perception_encoder.evaluation.results import full_table, to_json
    from perception_encoder.files import write_text

    if out is not None:
        write_text(out, to_json(result))
    output.print_table(*full_table(result), title=f"{result.model}, {result.split}")
    if note := demo_note(result.model):
        output.print_warning(note)
    failures = {str(failure): failure for score in result.scores for failure in score.failures}
    evaluated = max((score.n for score in result.scores), default=0)
    raise typer.Exit(output.report_skipped(list(failures.values()), evaluated + len(failures)))


@app.callback()
def evaluate() -> None:
    """Evaluate a model on datasets.

    Needs the extra `eval`. Datasets, layouts and protocols: docs/evaluation.md.

    Examples:

        pe eval classification PE-Core-L14-336 --data imagenet --split val --classes imagenet -o in1k.json
        pe eval knn timm:vit_small_patch14_dinov2 --data photos -o dino.json
        pe eval knn builtin --data photos -o builtin.json
        pe eval compare dino.json builtin.json
    """


def compare(first: ResultFile, second: ResultFile) -> None:
    """Compare two results, with intervals.

    For each score in both results: the difference and its 95 % interval, paired by item; exact tests for right and
    wrong answers and where few items differ. A model is called better if the p-value is at most 0.05 after Holm's
    correction for the number of scores compared. Both results must be of the same items.

    Examples:

        pe eval compare builtin.json PE-Core-B16-224.json
    """
    from perception_encoder.evaluation.results import compare_results, comparison_table, read_result

    ours, theirs = read_result(first), read_result(second)
    names = (ours.model, theirs.model) if ours.model != theirs.model else (first.stem, second.stem)
    output.print_table(*comparison_table(compare_results(ours, theirs), names), title=f"{names[0]} minus {names[1]}")


def __getattr__(name: str) -> Callable[..., None]:
    """Make the command of a task, which `COMMANDS` names, when it runs or is listed."""
    if name not in evaluations():
        raise AttributeError(name)
    return make_command(name)
