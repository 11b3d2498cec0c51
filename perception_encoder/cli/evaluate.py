"""`pe eval`: zero-shot evaluation, probes, dense tasks, questions and results."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.groups import lazy_group
from perception_encoder.cli.options import DATASET, argument, flag, option
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
CLASSES = "Class names: imagenet, or a file of names [default: the directories' names]."
ONTO = "With --mapping: choose among imagenet's classes, or those of a class file."
OWN = "crop for models with their own preprocessing"
HEADS = "Heads to fit, each with its own seed; 1 gives no interval."


def data_option(text: str, metavar: str = "PATH", least: float | None = None, *, advanced: bool = False) -> Any:
    """An option of the dataset."""
    return option(text, metavar, DATASET, least=least, advanced=advanced)


ZeroShotModel = Annotated[
    ModelSpec,
    {
        "model": Annotated[
            str,
            options.model_option(others="open_clip:NAME,WEIGHTS; hf:NAME (transformers); st:NAME"),
            options.BY_POSITION,
        ],
        **options.TRUSTING,
    },
]
ProbedModel = Annotated[
    ModelSpec,
    {"model": Annotated[str, options.model_option(others=options.LIBRARIES), options.BY_POSITION], **options.TRUSTING},
]
AskedModel = Annotated[
    str,
    options.model_option(
        others="facebook/Perception-LM-1B; a run of `pe train`; http://HOST/v1#MODEL, an endpoint; hf:NAME; "
        "python:MODULE:FUNCTION; builtin-lang"
    ),
    options.BY_POSITION,
]
Data = Annotated[Path, data_option("Dataset: see above.")]
LabelledData = Annotated[
    Path, data_option("Class directories, shards with labels or .cls, or a table; zero-shot also a name: food101, …")
]
QuestionData = Annotated[Path, data_option("The dataset as published, its Parquet files from the hub, or its name.")]
QuestionSplit = Annotated[str, data_option("Split [default: the one that papers report].", "NAME")]
Split = Annotated[str, data_option("Split to evaluate: a subdirectory, or a value in the annotations.", "NAME")]
TrainData = Annotated[Path | None, data_option("Dataset with the training split [default: that of --data].")]
Media = Annotated[Path | None, data_option("Directory of the files listed in --data [default: next to it].", "DIR")]
Items = Annotated[int | None, data_option("Maximum number of items, at even intervals [default: all].", "N", 1)]
Transforms = Annotated[str | None, option(f"squash, crop, or both [default: squash; {OWN}].", "NAMES")]
BothTransforms = Annotated[str | None, option(f"squash, crop, or both [default: both; {OWN}].", "NAMES")]
Layer = Annotated[int | None, option("Layer: 0, 1, … or -1, -2, … [default: the model's output].", "N")]
Pool = Annotated[str | None, option("attn, cls or mean; for timm: and hf: models cls or mean.", "NAME", advanced=True)]
Epochs = Annotated[int, option("Passes over the training images.", panel=options.HEAD, least=1)]
Channels = Annotated[int, option("Width of the head; published results: 256.", panel=options.HEAD, least=4)]
HeadSeeds = Annotated[int, option(HEADS, panel=options.HEAD, least=1, advanced=True)]
Blind = Annotated[bool, flag("--blind", "Show no image: what the model knows without looking.", options.MEDIA)]
Records = Annotated[Path | None, option("JSONL file of all answers; a run resumes from it.", "FILE", options.OUTPUT)]
Out = Annotated[Path | None, options.out_option("JSON file of all results, for `pe eval compare`.")]
ResultFile = Annotated[Path, argument("FILE", "JSON written by a command of `pe eval` with -o.")]


def classification(
    model: ZeroShotModel,
    data: LabelledData,
    split: Split = "test",
    classes: Annotated[str, data_option(CLASSES, "FILE")] = "",
    mapping: Annotated[
        Path | None, data_option("JSON of the labels to use and their names.", "FILE", advanced=True)
    ] = None,
    onto: Annotated[str, data_option(ONTO, "FILE", advanced=True)] = "",
    media: Media = None,
    trim: Annotated[int, data_option("Pixels to cut off each side; ObjectNet's border: 2.", "N", 0, advanced=True)] = 0,
    prompts: Annotated[str, option(PROMPTS, "NAMES")] = "",
    transform: BothTransforms = None,
    frames: options.Frames = 8,
    items: Items = None,
    out: Out = None,
) -> None:
    """Classify zero-shot: top-1 and top-5.

    Also the mean class accuracy. Both transforms are evaluated; the paper reports the better one. The embedding of a
    video is the mean over its frames. Labels are names of directories, WordNet ids or numbers, in Kinetics' CSV or in
    any table; WebDataset tars have numbers (KEY.cls) and classnames.txt. See docs/evaluation.md for each dataset.
    Status 1: some items could not be decoded; they are listed and left out of every result.

    Examples:

        pe eval classification PE-Core-L14-336 --data imagenet --split val --classes imagenet -o in1k.json
        pe eval classification PE-Core-L14-336 --data food101      # downloaded once; docs/datasets.md lists the names
        pe eval classification PE-Core-L14-336 --data k400_val.csv --media k400 --split val --prompts kinetics
        pe eval classification builtin --data photos --prompts photo
    """
    run("classification", **locals())


def retrieval(
    model: ZeroShotModel,
    data: Annotated[Path, data_option(CAPTIONS)],
    media: Media = None,
    split: Split = "test",
    transform: BothTransforms = None,
    frames: options.Frames = 8,
    items: Items = None,
    out: Out = None,
) -> None:
    """Retrieve by captions: R@1, R@5 and R@10.

    In both directions, from raw captions, with and without dual softmax. Dual softmax compares all queries at once, so
    its results are listed separately. The published COCO results (`pe models`) very probably use it. Fewer items are
    easier to tell apart.

    Examples:

        pe eval retrieval PE-Core-L14-336 --data captions_val2017.json --media val2017 -o coco.json
        pe eval retrieval PE-Core-L14-336 --data dataset_coco.json --media coco
        pe eval retrieval PE-Core-L14-336 --data flickr30k
        pe eval retrieval PE-Core-L14-336 --data MSRVTT_JSFUSION_test.csv --media MSRVTT/videos
        pe eval retrieval PE-Core-L14-336 --data PE-Video      # PVD-Bench: the refined captions of `test`
    """
    run("retrieval", **locals())


def knn(
    model: ProbedModel,
    data: LabelledData,
    split: Split = "test",
    train: TrainData = None,
    media: Media = None,
    k: Annotated[str, option("Number of neighbours; several with commas.", "K,K,...")] = "20",
    layer: Layer = None,
    pool: Pool = None,
    transform: Transforms = None,
    out: Out = None,
) -> None:
    """Classify by the nearest training items.

    A neighbour's vote has the weight exp(similarity / 0.07).

    Examples:

        pe eval knn PE-Core-L14-336 --data imagenet --split val -o knn.json
        pe eval knn -m timm:vit_small_patch14_dinov2 --data photos --k 10,20
        pe eval knn hf:facebook/dinov2-small --layer 8 --pool cls --data photos
    """
    run("knn", **{**locals(), "k": [int(number) for number in options.numbers(k)]})


def linear(
    model: ProbedModel,
    data: LabelledData,
    split: Split = "test",
    train: TrainData = None,
    media: Media = None,
    layer: Layer = None,
    pool: Pool = None,
    transform: Transforms = None,
    out: Out = None,
) -> None:
    """Classify by logistic regression.

    Embeddings are frozen and standardised; the regularisation is chosen on `val`, or on a tenth of `train`.

    Examples:

        pe eval linear builtin --data photos --layer 8 -o linear.json
    """
    run("linear", **locals())


def attentive(
    model: options.LayeredSpec,
    data: LabelledData,
    split: Split = "test",
    train: TrainData = None,
    media: Media = None,
    layer: Layer = None,
    epochs: Epochs = 20,
    head_seeds: HeadSeeds = 3,
    out: Out = None,
) -> None:
    """Classify by a trained attention block.

    A cross-attention block is trained on the frozen tokens of a layer, by default the last.

    Examples:

        pe eval attentive builtin --data photos --layer 8 -o attentive.json
    """
    run("attentive", **locals())


def segmentation(
    model: options.LayeredSpec,
    data: Data,
    layer: Layer = None,
    size: options.Size = None,
    epochs: Epochs = 20,
    kernel: Annotated[
        int, option("Patches along a side: 1 is linear, 3 a convolution.", panel=options.HEAD, least=1)
    ] = 1,
    head_seeds: HeadSeeds = 3,
    items: Items = None,
    out: Out = None,
) -> None:
    """Fit a segmentation head: mIoU.

    Also the pixel accuracy. PATH: images/ with masks/, whole or in train/ and test/, or ADE20K's images and
    annotations.

    Examples:

        pe eval segmentation PE-Spatial-G14-448 --data ADEChallengeData2016 --size 518 -o segmentation.json
        pe eval segmentation builtin --data photos --layer 8 --kernel 3
    """
    run("segmentation", **locals())


def detection(
    model: options.LayeredSpec,
    data: Data,
    layer: Layer = None,
    size: options.Size = None,
    class_agnostic: Annotated[bool, flag("--class-agnostic", "Detect objects as one class: boxes only.")] = False,
    epochs: Epochs = 15,
    channels: Channels = 64,
    head_seeds: HeadSeeds = 3,
    out: Out = None,
) -> None:
    """Fit a detection head: AP of boxes and masks.

    Mask R-CNN over a frozen layer; AP as COCO or LVIS define it. PATH: the directory of COCO, LVIS or Objects365 (or
    the annotations of val, such as annotations/lvis_v1_val.json), YOLO's data.yaml, train/
    and test/ with instances.json and images or tars, or a directory with annotations.json, trained on its first three
    fifths. Masks are optional. A few hundred images are too few to tell classes apart: use --class-agnostic.

    Examples:

        pe eval detection PE-Core-G14-448 --data coco --layer 39 --size 1022 --channels 256 -o detection.json
        pe eval detection builtin --data photos --layer 8 --class-agnostic
    """
    run("detection", **locals())


def tracking(
    model: options.LayeredSpec,
    data: Data,
    layer: Layer = None,
    final_norm: options.FinalNorm = False,
    short_side: Annotated[int, option("Short side of the frames, in pixels; DAVIS: 480.", least=16)] = 480,
    items: Items = None,
    out: Out = None,
) -> None:
    """Track objects through videos: J&F.

    Also J and F, as in DAVIS. The mask of the first frame is propagated to similar patches of later frames;
    nothing is trained. PATH: a DAVIS directory (JPEGImages, Annotations), a tar, or a directory of tars or directories,
    each with NNNNN.jpg and NNNNN.png.

    Examples:

        pe eval tracking PE-Core-G14-448 --data DAVIS --layer 31 -o tracking.json
        pe eval tracking builtin --data davis --layer 5 --short-side 240
    """
    run("tracking", **locals())


def depth(
    model: options.LayeredSpec,
    data: Data,
    layer: Layer = None,
    size: options.Size = None,
    per_metre: options.PerMetre = 1000.0,
    eigen_crop: Annotated[bool, flag("--eigen-crop", "Score only Eigen's crop, as usual for NYU.")] = False,
    aligned: Annotated[bool, flag("--aligned", "Align medians before scoring: relative depth.")] = False,
    epochs: Epochs = 20,
    channels: Channels = 64,
    head_seeds: HeadSeeds = 3,
    items: Items = None,
    out: Out = None,
) -> None:
    """Fit a depth head: RMSE in metres.

    Also the absolute relative error and the shares within 1.25, 1.25² and 1.25³. The head is in the style of DPT.

    PATH holds train and test, as tars or directories of KEY.jpg with KEY.depth.png, or of NYU's rgb_N.jpg with
    sync_depth_N.png; or it is one tar or directory, trained on its first three fifths. Images of one directory are one
    block of the interval. Where images do not show the scale, use --aligned.

    Examples:

        pe eval depth PE-Core-G14-448 --data nyu --layer 38 --channels 256 --eigen-crop -o depth.json
        pe eval depth builtin --data livingroom.tar --layer 6 --size 240x320
        pe eval depth builtin --data photos --layer 8 --aligned
    """
    run("depth", **locals())


def questions(
    dataset: Annotated[str, argument("DATASET", QUESTION_SETS)],
    model: Annotated[ModelSpec, {"model": AskedModel}],
    data: QuestionData,
    split: QuestionSplit = "",
    items: Items = None,
    blind: Blind = False,
    frames: options.MaxFrames = 8,
    tiles: options.Tiles = None,
    records: Records = None,
    out: Out = None,
) -> None:
    """Ask a language model a dataset's questions.

    The datasets of the paper's section 4, from the published files or the hub's Parquet files (layouts:
    docs/datasets.md). VQA accuracy: vqav2, okvqa, textvqa. ANLS: docvqa, infovqa (small text needs tiles). Relaxed
    accuracy: chartqa. Accuracy: ai2d, pope (and F1), mvbench (videos; the mean over twenty tasks). CIDEr and BLEU:
    coco, one sentence for each photograph. Accuracy at IoU 0.5: refcoco, refcoco+, refcocog. Status 1: some questions
    could not be asked; they are listed.

    Examples:

        pe eval questions textvqa builtin-lang --data TextVQA --records answers.jsonl -o textvqa.json
        pe eval questions docvqa facebook/Perception-LM-1B --data DocVQA --blind
    """
    run("questions", **locals())


def run(task: str, out: Path | None, **arguments: Any) -> None:
    """Evaluate with a command's arguments, and show the result; defaults are left to a published dataset."""
    from perception_encoder.evaluations import evaluate  # here, so that help and completion do not wait for torch

    defaults = inspect.signature(evaluate.tasks[task]).parameters
    given = {name: value for name, value in arguments.items() if value != defaults[name].default}
    if arguments.get("size"):
        given["size"] = options.image_size(arguments["size"])
    show(evaluate.tasks[task](**given, progress=track), out)


def show(result: Result, out: Path | None) -> None:
    """Write the JSON, print the table, list undecodable items, and exit."""
    from perception_encoder.evaluation.results import full_table, write_result

    if out is not None:
        write_result(result, out)
    output.print_table(*full_table(result), title=f"{result.model}, {result.split}")
    if note := demo_note(result.model):
        output.print_warning(note)
    failures = {str(failure): failure for score in result.scores for failure in score.failures}
    evaluated = max((score.n for score in result.scores), default=0)
    raise typer.Exit(output.report_skipped(list(failures.values()), evaluated + len(failures)))


@app.callback()
def describe() -> None:
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
    from perception_encoder.evaluation.results import compare_files

    title, table = compare_files(first, second)
    output.print_table(*table, title=title)
