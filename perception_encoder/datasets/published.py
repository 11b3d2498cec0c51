"""Public test sets by name: where they are published, in which layout, and how the paper's protocol reads them.

Repositories, files and columns were looked up in the hub's own pages and in the sources of mteb 2.26 and lmms-eval
0.7.3, which read the same ones; a comment says what could not be. lmms-lab's are now those of lmms-lab-encoder.
"""

from __future__ import annotations

import inspect
import io
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import wraps
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import IO, Any, ParamSpec, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from perception_encoder.datasets.rgbd import MILLIMETRES
from perception_encoder.errors import ConfigError, DataError, MissingExtraError, needs_extra, one_line
from perception_encoder.files import cache_directory, remove, write_text
from perception_encoder.preprocess.source import MEDIA_SUFFIXES

P = ParamSpec("P")
R = TypeVar("R")

WDS = ("test/*.tar", "classnames.txt", "zeroshot_classification_templates.txt")
"""The files of an evaluation set of CLIP_benchmark: tars of KEY.jpg, .png or .webp with KEY.cls or KEY.txt."""
COMPLETE = ".complete"
"""The file that marks a finished download, and says of what."""
PATIENCE = 10.0
"""Maximum seconds for the hub to answer."""


@dataclass(frozen=True)
class PublishedDataset:
    """A test set as its authors or the hub publish it."""

    name: str
    task: str
    """The task of `perception_encoder.evaluate`."""
    items: int
    """Images, videos or questions; approximate where a mirror lacks some."""
    licence: str
    """As its card or its authors' page says; "not stated" if we found neither. Test sets are not for training."""
    repository: str = ""
    """Dataset on the Hugging Face hub; empty if it is not there, or must not be."""
    files: Sequence[str] = ()
    """Patterns of the repository's files; each must match at least one."""
    urls: Sequence[str] = ()  # archives on the authors' own server
    unpack: Sequence[str] = ()  # those of `files` that are archives
    data: str = ""
    """The path to read, relative to the dataset's directory; by default the directory itself."""
    columns: Sequence[str] = ()
    """Columns that the Parquet files must have: the media, its label or caption, or the question's fields."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the task: split, prompts, class names."""
    videos: bool = False
    where: str = ""
    """Where to get a dataset that is neither on the hub nor at an address."""

    @property
    def address(self) -> str:
        return f"https://huggingface.co/datasets/{self.repository}" if self.repository else self.where or self.urls[0]


def _wds(name: str, items: int, repository: str, licence: str = "not stated", prompts: str = "") -> PublishedDataset:
    """Return images in CLIP_benchmark's layout, with its class names and, without `prompts`, its templates."""
    arguments = {"prompts": prompts} if prompts else {}
    repository = f"clip-benchmark/wds_{repository}"
    return PublishedDataset(name, "classification", items, licence, repository, WDS, arguments=arguments)


UNKNOWN, RESEARCH = "not stated", "research only"
CHUNKS = "videos_chunked_*.zip"
_BOXES, _DOCUMENT = ["question_id", "image", "answer", "bbox"], ["questionId", "image", "question", "answers"]
_CLASSES: dict[str, Any] = {"columns": ["video", "label"], "videos": True}
_KINETICS: dict[str, Any] = {**_CLASSES, "arguments": {"prompts": "kinetics"}}
_BESIDE = {"media": "."}
_MTEB = ["data/test-*.parquet"]
_row = PublishedDataset
# fmt: off
_ROWS = (
    # Images: CLIP_benchmark's test splits. ImageNet's family is read with OpenAI's 80 templates, as in the paper.
    _wds("imagenetv2", 10_000, "imagenetv2", "MIT", "imagenet"),  # matched frequency
    _wds("imagenet-a", 7_500, "imagenet-a", "MIT", "imagenet"),
    _wds("imagenet-r", 30_000, "imagenet-r", "MIT", "imagenet"),
    _wds("imagenet-sketch", 50_889, "imagenet_sketch", UNKNOWN, "imagenet"),
    _wds("food101", 25_250, "food101"),
    _wds("flowers", 6_149, "vtab-flowers"),
    _wds("pets", 3_669, "vtab-pets", "CC BY-SA 4.0"),
    _wds("cars", 8_041, "cars"),
    _wds("aircraft", 3_333, "fgvc_aircraft", RESEARCH),
    _wds("country211", 21_100, "country211", "CC BY-SA 4.0"),
    _wds("sun397", 15_800, "sun397"),  # as many as the hub's viewer shows; the whole dataset has 108,754 images
    _row("imagenet", "classification", 50_000, RESEARCH, arguments={"split": "val", "classes": "imagenet"},
         where="https://image-net.org, after an agreement: a directory with val/WNID/*.JPEG"),
    _row("objectnet", "classification", 18_574, "CC BY 4.0, not for training", data="images",
         arguments={"classes": "mappings/folder_to_objectnet_label.json",
                    "mapping": "mappings/objectnet_to_imagenet_1k.json"},
         where="https://objectnet.dev: the directory with images/ and mappings/"),
    # Videos. mteb has 16 of Kinetics' test videos of each class: results differ from those on all of val.
    _row("kinetics400", "classification", 19_881, "CC BY 4.0", videos=True, data="val.csv",
         arguments={"split": "val", "prompts": "kinetics", "media": "."}, urls=["https://s3.amazonaws.com/kinetics/400/annotations/val.csv",
               *(f"https://s3.amazonaws.com/kinetics/400/val/part_{part}.tar.gz" for part in range(20))]),
    _row("kinetics600", "classification", 9_576, "CC BY 4.0", "mteb/kinetics-600", _MTEB, **_KINETICS),
    _row("kinetics700", "classification", 11_190, "CC BY 4.0", "mteb/kinetics-700-2020", _MTEB, **_KINETICS),
    _row("hmdb51", "classification", 1_530, "CC BY 4.0", "mteb/HMDB51", _MTEB,  # split 1
         arguments={"prompts": "actions"}, **_CLASSES),
    # No page shows the directories inside these archives: the list is found at any depth, as videos are.
    _row("ucf101", "classification", 3_783, UNKNOWN, "MichiganNLP/ucf-101",
         ["UCF101.zip", "UCF101TrainTestSplits-RecognitionTask.zip"], unpack=["UCF101*.zip"],
         data="ucfTrainTestlist/testlist01.txt", arguments={"media": ".", "prompts": "actions"}, videos=True),
    _row("coco", "retrieval", 5_000, UNKNOWN, "clip-benchmark/wds_mscoco_captions", WDS[:1]),  # Karpathy's test split
    _row("flickr30k", "retrieval", 1_000, UNKNOWN, "clip-benchmark/wds_flickr30k", WDS[:1]),
    _row("msrvtt", "retrieval", 1_000, UNKNOWN, "friedrichor/MSR-VTT", ["msrvtt_test_1k.json", "MSRVTT_Videos.zip"],
         unpack=["MSRVTT_Videos.zip"], data="msrvtt_test_1k.json", arguments=_BESIDE, videos=True),  # 1K-A
    _row("msvd", "retrieval", 670, UNKNOWN, "VLM2Vec/MSVD", ["msvd_test.json", "raw_videos/*.avi"],
         data="msvd_test.json", arguments=_BESIDE, videos=True),
    _row("didemo", "retrieval", 1_004, UNKNOWN, "friedrichor/DiDeMo",  # paragraphs
         ["didemo_test.json", "DiDeMo_Videos_mp4_test.tar"], unpack=["DiDeMo_Videos_mp4_test.tar"],
         data="didemo_test.json", arguments=_BESIDE, videos=True),
    _row("activitynet", "retrieval", 4_884, UNKNOWN, "mteb/ActivityNet_Captions_val2", _MTEB,  # papers: val1
         columns=["video", "caption"], arguments={"frames": 32}, videos=True),
    _row("pvd-bench", "retrieval", 15_000, UNKNOWN, "facebook/PE-Video", WDS[:1], videos=True),
    # Dense tasks, from the authors: the hub's copies lack the split that heads are fitted on, or have other sizes.
    _row("davis2017", "tracking", 1_999, UNKNOWN, data="DAVIS",  # frames of 30 videos
         urls=["https://data.vision.ee.ethz.ch/csergi/share/davis/DAVIS-2017-trainval-480p.zip"]),
    _row("ade20k", "segmentation", 22_210, "BSD-3-Clause; images: research only", data="ADEChallengeData2016",
         urls=["http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"],
         arguments={"size": 518, "kernel": 3}),
    # The 654 test images of papers. The head is fitted on FastDepth's 47,584 images; papers use BTS's 24,231, which are
    # not on the hub (https://github.com/cleinc/bts): give a directory of them as `data` to do the same.
    _row("nyuv2", "depth", 48_238, "Apache-2.0", "sayakpaul/nyu_depth_v2", ["data/train-*.tar", "data/val-*.tar"],
         unpack=["data/train-*.tar", "data/val-*.tar"], arguments={"channels": 256, "eigen_crop": True}),
    # For language models: the tables that lmms-eval reads. The hub's val of DocVQA and InfographicVQA has answers.
    _row("docvqa", "questions", 5_349, "Apache-2.0", "lmms-lab-encoder/DocVQA", ["DocVQA/validation-*.parquet"],
         columns=_DOCUMENT, arguments={"dataset": "docvqa", "split": "val"}),
    _row("infovqa", "questions", 2_801, "Apache-2.0", "lmms-lab-encoder/DocVQA",
         ["InfographicVQA/validation-*.parquet"], columns=_DOCUMENT, arguments={"dataset": "infovqa", "split": "val"}),
    _row("chartqa", "questions", 2_500, "GPL-3.0", "lmms-lab-encoder/ChartQA", ["data/test-*.parquet"],
         columns=["type", "image", "question", "answer"], arguments={"dataset": "chartqa"}),
    _row("flickr30k-captions", "questions", 31_783, UNKNOWN, "lmms-lab-encoder/flickr30k", ["data/test-*.parquet"],
         columns=["image", "img_id", "caption"], arguments={"dataset": "flickr30k"}),  # all images, as in PLM's results
    _row("nocaps", "questions", 4_500, UNKNOWN, "lmms-lab-encoder/NoCaps", ["data/validation-*.parquet"],
         columns=["image", "image_id", "annotations_captions"], arguments={"dataset": "nocaps"}),
    # One row an object, whose phrases are its answers. RefCOCO's val has 8,811: the 3,811 of UNC's split and 5,000 of
    # Google's; RefCOCOg's has 7,573: the 2,573 of UMD's split and 5,000 of Google's.
    _row("refcoco", "questions", 12_596, UNKNOWN, "lmms-lab-encoder/RefCOCO",
         ["data/val-*.parquet", "data/testA-*.parquet", "data/testB-*.parquet"], columns=_BOXES,
         arguments={"dataset": "refcoco", "split": "all"}),
    _row("refcoco+", "questions", 7_578, UNKNOWN, "lmms-lab-encoder/RefCOCOplus",
         ["data/val-*.parquet", "data/testA-*.parquet", "data/testB-*.parquet"], columns=_BOXES,
         arguments={"dataset": "refcoco+", "split": "all"}),
    _row("refcocog", "questions", 12_596, UNKNOWN, "lmms-lab-encoder/RefCOCOg",
         ["data/val-*.parquet", "data/test-*.parquet"], columns=_BOXES,
         arguments={"dataset": "refcocog", "split": "all"}),
    _row("videomme", "questions", 2_700, RESEARCH, "lmms-eval/Video-MME", ["videomme/test-*.parquet", CHUNKS],
         columns=["question_id", "videoID", "question", "options", "answer", "duration"], unpack=[CHUNKS],
         arguments={"dataset": "videomme"}, videos=True),
    _row("egoschema", "questions", 500, "MIT", "mteb/EgoSchema_subset", _MTEB, videos=True,
         arguments={"dataset": "egoschema"},  # those with public answers
         columns=["question_id", "video_id", "video", "question", "candidates", "answer"]),
    _row("perceptiontest", "questions", 19_140, "CC BY 4.0", "lmms-eval/PerceptionTest_Val",
         ["mc_question_val/validation-*.parquet", CHUNKS], unpack=[CHUNKS],
         columns=["question_id", "video_name", "question", "options", "answer_id"],
         arguments={"dataset": "perceptiontest"}, videos=True),
    # mteb's copy has whole videos, without the times that a question is about. The authors' former address was
    # stardata.s3.amazonaws.com.
    _row("star", "questions", 7_098, "not stated; videos: research only", arguments={"dataset": "star"}, videos=True,
         urls=["https://star-benchmark.s3.us-east.cloud-object-storage.appdomain.cloud/Question_Answer_SituationGraph/STAR_val.json",
               "https://ai2-public-datasets.s3-us-west-2.amazonaws.com/charades/Charades_v1_480.zip"]),
    _row("tgifqa", "questions", 22_676, RESEARCH, arguments={"dataset": "tgifqa"}, videos=True,
         where="https://github.com/YunseokJANG/tgif-qa: a directory with Test_*_question.csv and the GIFs"),
)
# fmt: on
DATASETS: Mapping[str, PublishedDataset] = {row.name: row for row in _ROWS}
"""Published test sets by name."""


def find_published(data: str | Path, task: str) -> PublishedDataset | None:
    """Return the published dataset of a name, or None for anything else, such as a path that exists.

    Raises ConfigError if the dataset is for another task.
    """
    row = None if Path(data).exists() else DATASETS.get(str(data).lower())
    if row is not None and row.task != task:
        raise ConfigError(f"{row.name} is a dataset for {row.task}, not for {task}; choose another or give a path")
    return row


def dataset_arguments(row: PublishedDataset, root: Path) -> dict[str, Any]:
    """Return a dataset's arguments with its path, `data`; `root`: its directory, or a file to read in it."""
    directory, data = (root.parent, root) if root.is_file() else (root, root / row.data)
    if not data.exists():
        data = next(root.rglob(data.name), root)
    arguments: dict[str, Any] = {"data": data, **row.arguments}
    for name in ("classes", "mapping", "media"):
        value = arguments.get(name)
        if isinstance(value, str) and ("/" in value or value == "."):
            arguments[name] = str(directory / value)
    return arguments


def published_by_name(task: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let `data` be the name of a published dataset for a task, which also sets the arguments that are not given."""

    def decorate(run: Callable[P, R]) -> Callable[P, R]:
        signature, call = inspect.signature(run), cast("Callable[..., R]", run)

        @wraps(run)
        def evaluate(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs).arguments
            if published := find_published(given["data"], task):
                theirs = dataset_arguments(published, download_dataset(published))
                given = theirs | given | {"data": theirs["data"]}
            return call(**given)

        return evaluate

    return decorate


def directory_of(row: PublishedDataset) -> Path:
    """Return the directory that a dataset is downloaded into, below the user's cache."""
    return cache_directory("datasets") / row.name


def download_dataset(row: PublishedDataset, root: Path | None = None) -> Path:
    """Return the directory of a dataset, downloaded once.

    An interrupted download continues with the missing files; an archive from the authors' own server starts again.
    Raises DataError, in one line, if it cannot be had: no such repository, no answer, a split or a column that is not
    there; it names what was found instead.
    """
    root = root or directory_of(row)
    if _is_complete(row, root):
        return root
    if not row.repository and not row.urls:
        raise DataError(f"{row.name} cannot be downloaded for you; get it from {row.where}, and give its path")
    if row.task == "depth" and find_spec("h5py") is None:  # known before 35 GB are downloaded
        raise MissingExtraError("h5py", "eval")
    try:
        root.mkdir(parents=True, exist_ok=True)
        if row.repository:
            _fetch_repository(row, root)
        for url in row.urls:
            _fetch_url(url, root)
        for archive in sorted(path for pattern in row.unpack for path in root.glob(pattern)):
            _unpack(archive, root)
    except (DataError, MissingExtraError):
        raise
    except Exception as error:  # clients raise many kinds, such as offline, missing and gated
        raise DataError(
            f"{row.name} could not be downloaded ({reason_of(error)}); get it from {row.address} and give its path"
        ) from None
    check_columns(row, root)
    write_text(root / COMPLETE, _contents(row))
    return root


def reason_of(error: BaseException) -> str:
    """Return why a download failed, in one line: fsspec raises a FileNotFoundError of the address for anything."""
    while type(error) is FileNotFoundError and error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, first=True)


def list_files(row: PublishedDataset) -> dict[str, int]:
    """Return a repository's matching files with their bytes, as the hub lists them now.

    DataError if a pattern matches none, with the directories and files that there are.
    """
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(row.repository, files_metadata=True, timeout=PATIENCE)
    sizes = {item.rfilename: item.size or 0 for item in info.siblings or ()}
    for pattern in row.files:
        if not any(fnmatch(name, pattern) for name in sizes):
            found = ", ".join(sorted({name.partition("/")[0] for name in sizes if not name.startswith(".")})[:8])
            raise DataError(f"{row.repository} has no {pattern}, but: {found or 'nothing'}")
    return {name: size for name, size in sizes.items() if any(fnmatch(name, pattern) for pattern in row.files)}


def check_columns(row: PublishedDataset, root: Path) -> None:
    """Raise DataError if a Parquet file lacks a column, with the columns that it has."""
    tables = sorted(path for pattern in row.files for path in root.glob(pattern) if path.suffix == ".parquet")
    for table in tables if row.columns else ():
        try:
            present = pq.read_schema(table).names
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{table} cannot be read: {one_line(error)}") from error
        for column in row.columns:
            if column not in present:
                raise DataError(f"{row.repository} has no column {column!r}, but {', '.join(map(repr, present))}")


def _is_complete(row: PublishedDataset, root: Path) -> bool:
    mark = root / COMPLETE
    return mark.exists() and mark.read_text(encoding="utf-8") == _contents(row)


def _contents(row: PublishedDataset) -> str:
    return "\n".join((row.repository, *row.files, *row.urls))


def _fetch_repository(row: PublishedDataset, root: Path) -> None:
    from huggingface_hub import snapshot_download

    names = [name for name in list_files(row) if not _unpacked(root / name).exists()]
    if names:
        snapshot_download(row.repository, repo_type="dataset", local_dir=root, allow_patterns=names)


def _fetch_url(url: str, root: Path) -> None:
    target = root / url.rpartition("/")[2]
    if not target.exists() and not _unpacked(target).exists():
        with needs_extra("eval", "datasets"):
            from aiohttp import ClientTimeout
            from datasets import DownloadConfig, DownloadManager
        patient = {"timeout": ClientTimeout(sock_connect=PATIENCE, sock_read=60)}  # the default is 5 minutes in all
        config = DownloadConfig(cache_dir=root / ".downloads", storage_options={"client_kwargs": patient})
        shutil.move(DownloadManager(download_config=config).download(url), target)
        remove(root / ".downloads")
    if target.suffix in (".zip", ".gz"):
        _unpack(target, root)


def _unpack(archive: Path, root: Path) -> None:
    """Unpack an archive into its dataset's directory and remove it; a mark keeps it from being downloaded again."""
    if _unpacked(archive).exists():
        return
    if archive.suffix in (".tar", ".gz"):
        with tarfile.open(archive) as tar:
            for member in tar:
                stream, name = tar.extractfile(member), PurePosixPath(member.name)
                if stream is not None and name.suffix == ".h5":
                    _unpack_depth(stream, archive, name, root)
                elif stream is not None and name.suffix.lower() in MEDIA_SUFFIXES:
                    target = root.joinpath("videos", *(part for part in name.parts if part not in ("/", "..")))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as file:
                        shutil.copyfileobj(stream, file)
    else:
        shutil.unpack_archive(archive, root)
    _unpacked(archive).touch()
    remove(archive)


def _unpack_depth(stream: IO[bytes], archive: Path, name: PurePosixPath, root: Path) -> None:
    """Write an HDF5 file, `rgb` (3, H, W) and `depth` (H, W) in metres, as two PNGs, the depth in millimetres."""
    import h5py

    with h5py.File(io.BytesIO(stream.read())) as file:
        image, depth = np.moveaxis(file["rgb"][()], 0, -1), file["depth"][()]
    split = root / ("train" if archive.name.startswith("train") else "test")
    split.mkdir(exist_ok=True)
    key = f"{archive.stem}-{name.with_suffix('').as_posix().replace('/', '-')}"
    Image.fromarray(image).save(split / f"{key}.png", compress_level=1)
    Image.fromarray(np.rint(depth * MILLIMETRES).astype(np.uint16)).save(split / f"{key}.depth.png")


def _unpacked(archive: Path) -> Path:
    return archive.with_name(f".{archive.name}.unpacked")
