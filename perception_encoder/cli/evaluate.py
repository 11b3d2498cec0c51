"""`pe eval`: zero-shot evaluation, probes, dense tasks and results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from perception_encoder.cli import evaluate_options as options
from perception_encoder.cli import options as shared
from perception_encoder.cli import output
from perception_encoder.cli.evaluate_options import ResultFile
from perception_encoder.cli.groups import lazy_group
from perception_encoder.cli.options import (
    HEAD,
    FinalNorm,
    Frames,
    LayeredModel,
    PerMetre,
    Size,
    flag,
    image_size,
    numbers,
    option,
)

COMMANDS = {
    "Zero-shot": {"classification": "evaluate:classification", "retrieval": "evaluate:retrieval"},
    "Probes": {"knn": "evaluate:knn", "linear": "evaluate:linear", "attentive": "evaluate:attentive"},
    "Dense tasks": {
        "segmentation": "evaluate:segmentation",
        "detection": "evaluate:detection",
        "tracking": "evaluate:tracking",
        "depth": "evaluate:depth",
    },
    "Questions": {"questions": "evaluate:questions"},
    "Results": {"compare": "evaluate:compare"},
}
app = lazy_group(COMMANDS)
NAMES = "Class names: imagenet, or a file of names [default: the directories' names]."
ONTO = "With --mapping: choose among imagenet's classes, or those of a class file."
CAPTIONS = "Captions: JSON (COCO, Karpathy, MSR-VTT), a table, or tars with KEY.txt."


@app.callback()
def evaluate() -> None:
    """Evaluate a model on datasets.

    Needs the extra `eval`. Datasets, layouts and protocols: docs/evaluation.md.

    Examples:

        pe eval classification PE-Core-L14-336 --data imagenet --split val --classes imagenet -o in1k.json
        pe eval knn timm:vit_small_patch14_dinov2 --data photos -o dino.json
        pe eval compare dino.json builtin.json
    """


def classification(
    model: options.TwoTowers,
    data: options.Classes,
    split: options.Split = "test",
    classes: Annotated[str, options.data_option(NAMES, "FILE")] = "",
    mapping: Annotated[
        Path | None, options.data_option("JSON of the labels to use and their names.", "FILE", advanced=True)
    ] = None,
    onto: Annotated[str, options.data_option(ONTO, "FILE", advanced=True)] = "",
    media: options.Media = None,
    trim: Annotated[
        int, options.data_option("Pixels to cut off each side; ObjectNet's border: 2.", "N", 0, advanced=True)
    ] = 0,
    prompts: options.Prompts = "imagenet",
    transform: options.Transforms = "squash,crop",
    frames: shared.Frames = 8,
    out: options.Out = None,
) -> None:
    """Classify zero-shot: top-1 and top-5.

    Also the mean class accuracy. Both transforms are evaluated; the paper reports the better one. The embedding of a
    video is the mean over its frames. Labels are names of directories, WordNet ids or numbers, in Kinetics' CSV or in
    any table; WebDataset tars have numbers (KEY.cls) and classnames.txt. See docs/evaluation.md for each dataset.
    Status 1: some items could not be decoded; they are listed and left out of every result.

    Examples:

        pe eval classification PE-Core-L14-336 --data imagenet --split val --classes imagenet -o in1k.json
        pe eval classification PE-Core-L14-336 --data wds_cifar10 --prompts templates.txt
        pe eval classification PE-Core-L14-336 --data k400_val.csv --media k400 --split val --prompts kinetics
        pe eval classification builtin --data photos --prompts photo
    """
    options.run("classification", locals())


def retrieval(
    model: options.TwoTowers,
    data: Annotated[Path, options.data_option(CAPTIONS)],
    media: options.Media = None,
    split: options.Split = "test",
    transform: options.Transforms = "squash,crop",
    frames: Frames = 8,
    out: options.Out = None,
) -> None:
    """Retrieve by captions: R@1, R@5 and R@10.

    In both directions, from raw captions, with and without dual softmax. Dual softmax compares all queries at once, so
    its results are listed separately. The published COCO results (`pe models`) very probably use it.

    Examples:

        pe eval retrieval PE-Core-L14-336 --data captions_val2017.json --media val2017 -o coco.json
        pe eval retrieval PE-Core-L14-336 --data dataset_coco.json --media coco
        pe eval retrieval PE-Core-L14-336 --data wds_flickr8k
        pe eval retrieval PE-Core-L14-336 --data MSRVTT_JSFUSION_test.csv --media MSRVTT/videos
        pe eval retrieval PE-Core-L14-336 --data PE-Video      # PVD-Bench: the refined captions of `test`
    """
    options.run("retrieval", locals())


def knn(
    model: options.Embedder,
    data: options.Classes,
    split: options.Split = "test",
    train: options.Train = None,
    media: options.ListedMedia = None,
    k: Annotated[str, option("Number of neighbours; several with commas.", "K,K,...")] = "20",
    layer: options.Layer = None,
    pool: options.Pool = None,
    transform: options.Transforms = "squash",
    out: options.Out = None,
) -> None:
    """Classify by the nearest training items.

    A neighbour's vote has the weight exp(similarity / 0.07).

    Examples:

        pe eval knn PE-Core-L14-336 --data imagenet --split val -o knn.json
        pe eval knn -m timm:vit_small_patch14_dinov2 --data photos --k 10,20
        pe eval knn hf:facebook/dinov2-small --layer 8 --pool cls --data photos
    """
    options.run("knn", locals(), k=[int(number) for number in numbers(k)])


def linear(
    model: options.Embedder,
    data: options.Classes,
    split: options.Split = "test",
    train: options.Train = None,
    media: options.ListedMedia = None,
    layer: options.Layer = None,
    pool: options.Pool = None,
    transform: options.Transforms = "squash",
    out: options.Out = None,
) -> None:
    """Classify by logistic regression.

    Embeddings are frozen and standardised; the regularisation is chosen on `val`, or on a tenth of `train`.

    Examples:

        pe eval linear builtin --data photos --layer 8 -o linear.json
    """
    options.run("linear", locals())


def attentive(
    model: LayeredModel,
    data: options.Classes,
    split: options.Split = "test",
    train: options.Train = None,
    media: options.ListedMedia = None,
    layer: options.Layer = None,
    epochs: options.Epochs = 20,
    lr: Annotated[str, option("Learning rates to choose from.", "LR,LR,...", HEAD, advanced=True)] = "3e-4,1e-3,3e-3",
    head_seeds: options.HeadSeeds = 3,
    out: options.Out = None,
) -> None:
    """Classify by a trained attention block.

    A cross-attention block is trained on the frozen tokens of a layer, by default the last.

    Examples:

        pe eval attentive builtin --data photos --layer 8 -o attentive.json
    """
    options.run("attentive", locals(), lr=numbers(lr))


def segmentation(
    model: LayeredModel,
    data: options.DenseData,
    layer: options.Layer = None,
    size: Size = None,
    epochs: options.Epochs = 20,
    kernel: Annotated[int, option("Patches along a side: 1 is linear, 3 a convolution.", panel=HEAD, least=1)] = 1,
    head_seeds: options.HeadSeeds = 3,
    out: options.Out = None,
) -> None:
    """Fit a segmentation head: mIoU.

    Also the pixel accuracy. PATH: rendered scenes (`train/*.tar` and `test/*.tar` with KEY.jpg, KEY.mask.png,
    KEY.json), or ADE20K's images and annotations.

    Examples:

        pe eval segmentation PE-Spatial-G14-448 --data ADEChallengeData2016 --size 518 -o segmentation.json
        pe eval segmentation builtin --data scenes --layer 8 --kernel 3
    """
    options.run("segmentation", locals(), size=image_size(size))


def detection(
    model: LayeredModel,
    data: options.DenseData,
    layer: options.Layer = None,
    size: Size = None,
    class_agnostic: Annotated[bool, flag("--class-agnostic", "Detect objects as one class: boxes only.")] = False,
    epochs: options.Epochs = 15,
    channels: options.Channels = 64,
    head_seeds: options.HeadSeeds = 3,
    out: options.Out = None,
) -> None:
    """Fit a detection head: AP of boxes and masks.

    Mask R-CNN over a frozen layer; AP as COCO or LVIS define it. PATH: the directory of COCO, LVIS or Objects365 (or
    the annotations of val, such as annotations/lvis_v1_val.json), rendered scenes (train/instances.json,
    test/instances.json and tars beside them), or a directory with annotations.json, trained on its first three fifths.
    Masks are optional. A few hundred scenes are too few to tell classes apart: use --class-agnostic.

    Examples:

        pe eval detection PE-Core-G14-448 --data coco --layer 39 --size 1022 --channels 256 -o detection.json
        pe eval detection builtin --data scenes --layer 8 --class-agnostic
    """
    options.run("detection", locals(), size=image_size(size))


def tracking(
    model: LayeredModel,
    data: options.DenseData,
    layer: options.Layer = None,
    final_norm: FinalNorm = False,
    short_side: Annotated[int, option("Short side of the frames, in pixels; DAVIS: 480.", least=16)] = 480,
    frames: Annotated[int, option("Earlier frames to compare with, in addition to the first.", least=1)] = 7,
    out: options.Out = None,
) -> None:
    """Track objects through videos: J&F.

    Also J and F, as in DAVIS. The mask of the first frame is propagated to similar patches of later frames;
    nothing is trained. PATH: a DAVIS directory (JPEGImages, Annotations), a tar, or a directory of tars or directories,
    each with NNNNN.jpg and NNNNN.png, or of rendered videos.

    Examples:

        pe eval tracking PE-Core-G14-448 --data DAVIS --layer 31 -o tracking.json
        pe eval tracking builtin --data davis --layer 5 --short-side 240
    """
    options.run("tracking", locals())


def depth(
    model: LayeredModel,
    data: options.DenseData,
    layer: options.Layer = None,
    size: Size = None,
    per_metre: PerMetre = 1000.0,
    eigen_crop: Annotated[bool, flag("--eigen-crop", "Score only Eigen's crop, as usual for NYU.")] = False,
    aligned: Annotated[bool, flag("--aligned", "Align medians before scoring: relative depth.")] = False,
    epochs: options.Epochs = 20,
    channels: options.HeadWidth = 64,
    head_seeds: options.HeadSeeds = 3,
    out: options.Out = None,
) -> None:
    """Fit a depth head: RMSE in metres.

    Also the absolute relative error and the shares within 1.25, 1.25² and 1.25³. The head is in the style of DPT.

    PATH holds train and test, as tars or directories of KEY.jpg with KEY.depth.png, or of NYU's rgb_N.jpg with
    sync_depth_N.png; or it is one tar or directory, trained on its first three fifths. Images of one directory, or of a
    path without train and test, are one sequence, and one block of the interval; a single sequence has no interval.
    Rendered scenes have objects of any size, so images do not show the scale: use --aligned.

    Examples:

        pe eval depth PE-Core-G14-448 --data nyu --layer 38 --channels 256 --eigen-crop -o depth.json
        pe eval depth builtin --data livingroom.tar --layer 6 --size 240x320
        pe eval depth builtin --data scenes --layer 8 --aligned
    """
    options.run("depth", locals(), size=image_size(size))


def compare(first: ResultFile, second: ResultFile) -> None:
    """Compare two results, with intervals.

    For each score in both results: the difference and its 95 % interval, by a paired bootstrap over the items (1,000
    resamples). A model is called better if the p-value is at most 0.05 after Holm's correction for the number of scores
    compared. Both results must be of the same items.

    Examples:

        pe eval compare builtin.json PE-Core-B16-224.json
    """
    from perception_encoder.api import compare
    from perception_encoder.evaluation.comparison import comparison_table
    from perception_encoder.evaluation.results import read_result

    ours, theirs = read_result(first), read_result(second)
    names = (ours.model, theirs.model) if ours.model != theirs.model else (first.stem, second.stem)
    table = comparison_table(compare(ours, theirs), names)
    output.print_table(table.columns, table.rows, title=f"{names[0]} minus {names[1]}")


def put(*arguments: Any, **options: Any) -> Any:
    """Put questions; imported late."""
    from perception_encoder.api import questions

    return questions(*arguments, **options)


questions = options.questions_command(
    "vqav2, okvqa, textvqa, docvqa, infovqa, chartqa, ai2d, pope, mvbench, coco, refcoco, refcoco+ or refcocog.",
    """Ask a language model a dataset's questions.

    The datasets of the paper's section 4, from the published files or the hub's Parquet files (layouts:
    docs/datasets.md). VQA accuracy: vqav2, okvqa, textvqa. ANLS: docvqa, infovqa (small text needs tiles). Relaxed
    accuracy: chartqa. Accuracy: ai2d, pope (and F1), mvbench (videos; the mean over twenty tasks). CIDEr and BLEU:
    coco, one sentence for each photograph. Accuracy at IoU 0.5: refcoco, refcoco+, refcocog. Status 1: some questions
    could not be asked; they are listed.

    Examples:

        pe eval questions textvqa builtin-lang --data TextVQA --records answers.jsonl -o textvqa.json
        pe eval questions docvqa facebook/Perception-LM-1B --data DocVQA --blind
    """,
    put,
)
