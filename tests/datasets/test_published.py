"""Published datasets by name, from stand-ins in the layouts of their repositories."""

from __future__ import annotations

import functools
import http.server
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_encoder.datasets import published
from perception_encoder.datasets.captioned import CaptionedMedia, load_captions
from perception_encoder.datasets.classified import ClassOptions, load_tasks
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.published import (
    DATASETS,
    dataset_arguments,
    directory_of,
    download_dataset,
    find_published,
)
from perception_encoder.datasets.rgbd import read_depth_splits
from perception_encoder.errors import ConfigError, DataError, MissingExtraError
from perception_encoder.evaluation.inputs import open_item
from perception_encoder.evaluation.language.tasks import TASKS
from perception_encoder.evaluations import evaluate
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load, load_layers
from perception_encoder.preprocess.image import open_image
from tests.clips import clip
from tests.data.tars import write_tar
from tests.datasets import stand_ins
from tests.datasets.stand_ins import NAMES, Hub

ACTIONS = ["brush hair", "fencing"]
LAYOUTS: dict[str, Callable[[Path], None]] = {
    "food101": stand_ins.wds,
    "imagenetv2": functools.partial(stand_ins.wds, suffix="webp"),
    "coco": stand_ins.wds_captions,
    "hmdb51": functools.partial(stand_ins.mteb, column="label", names=ACTIONS),
    "activitynet": functools.partial(stand_ins.mteb, column="caption"),
    "msrvtt": stand_ins.msrvtt,
    "msvd": stand_ins.msvd,
    "didemo": stand_ins.didemo,
    "ucf101": stand_ins.ucf101,
    "pvd-bench": stand_ins.pe_video,
}


@pytest.fixture(scope="module")
def builtin() -> Encoder:
    return load("builtin")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub = Hub(tmp_path / "hub", monkeypatch)
    for name, write in LAYOUTS.items():
        write(hub.root / DATASETS[name].repository)
    return hub


def read(name: str) -> LabelledImages | CaptionedMedia:
    row = DATASETS[name]
    arguments = dataset_arguments(row, download_dataset(row))
    media = Path(arguments["media"]) if "media" in arguments else None
    if row.task == "retrieval":
        return load_captions(arguments["data"], media)
    (task,) = load_tasks(arguments["data"], "test", ClassOptions(media=media)).values()
    return task


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_downloaded_once_and_read(name: str, hub: Hub) -> None:
    data = read(name)
    media = data.images if isinstance(data, LabelledImages) else data.media
    for key, item in zip(data.keys, media, strict=True):
        assert len(open_item(item, key, 2)) == (2 if DATASETS[name].videos else 1)
    assert hub.downloaded and not [name for name in hub.downloaded if name.startswith(("train", "README"))]
    hub.downloaded.clear()
    read(name)
    assert not hub.downloaded


def test_class_names_and_templates(hub: Hub) -> None:
    food, actions, clips = read("food101"), read("hmdb51"), read("ucf101")
    assert isinstance(food, LabelledImages) and isinstance(actions, LabelledImages)
    assert isinstance(clips, LabelledImages)
    assert (list(food.names.values()), food.templates) == (NAMES, ("a photo of {}, a type of food.",))
    assert [actions.names[label] for label in actions.labels] == ["brush hair", "fencing", "brush hair"]
    assert list(clips.names.values()) == ["apply eye makeup", "yo yo"]
    texts = read("msvd")
    assert isinstance(texts, CaptionedMedia) and texts.captions[0] == ("a man", "he runs")


def test_the_name_in_place_of_a_path(hub: Hub, builtin: Encoder) -> None:
    squash, *_, crop = evaluate("classification", builtin, "food101", items=4).scores
    assert (squash.task, squash.prompts, squash.classes, squash.n) == ("food101", "dataset", 3, 4)
    assert crop.transform == "crop"
    given, *_ = evaluate("classification", builtin, "food101", prompts="name", transform="crop").scores
    assert (given.prompts, given.n) == ("name", 6)
    published_prompts, *_ = evaluate("classification", builtin, "imagenetv2").scores
    assert published_prompts.prompts == "imagenet"
    pairs, *_ = evaluate("retrieval", builtin, "coco", items=3, transform="squash").scores
    assert pairs.classes == 3
    with pytest.raises(ConfigError, match=r"food101 is .*, not for retrieval"):
        evaluate("retrieval", builtin, "food101")


def test_videos_are_read_as_the_reference_reads_them(hub: Hub, builtin: Encoder) -> None:
    kinetics = {f"kinetics{classes}": ("kinetics", 8) for classes in (400, 600, 700)}
    actions = dict.fromkeys(("hmdb51", "ucf101"), ("actions", 8))
    texts = {"activitynet": ("", 32), **dict.fromkeys(("msrvtt", "msvd", "didemo", "pvd-bench"), ("", 8))}
    rows = [row for row in DATASETS.values() if row.videos and row.task != "questions"]
    found = {row.name: (row.arguments.get("prompts", ""), row.arguments.get("frames", 8)) for row in rows}
    assert found == kinetics | actions | texts
    assert {item.prompts for item in evaluate("classification", builtin, "hmdb51").scores} == {"actions"}


def test_a_copy_of_your_own(hub: Hub, tmp_path: Path) -> None:
    """Its directories may have other names; or only a file is named, with its videos beside it."""
    row = DATASETS["msrvtt"]
    root = download_dataset(row)
    root.rename(tmp_path / "mine")
    arguments = dataset_arguments(row, tmp_path / "mine" / "msrvtt_test_1k.json")
    assert arguments["data"] == tmp_path / "mine" / "msrvtt_test_1k.json"
    assert Path(arguments["media"]) == tmp_path / "mine"
    clips = download_dataset(DATASETS["ucf101"])
    (clips / "lists").mkdir()
    (clips / "ucfTrainTestlist").rename(clips / "lists" / "ucfTrainTestlist")
    assert isinstance(read("ucf101"), LabelledImages)
    assert dataset_arguments(DATASETS["davis2017"], tmp_path / "mine")["data"] == tmp_path / "mine"


def test_an_argument_at_its_default_is_given_too(hub: Hub, builtin: Encoder, run_pe: Any, tmp_path: Path) -> None:
    own, *_ = evaluate("classification", builtin, "imagenetv2", prompts="").scores
    assert own.prompts == "dataset"  # that of the tars
    out = tmp_path / "result.json"
    assert run_pe("eval", "classification", "builtin", "--data", "imagenetv2", "-o", out).status == 0
    assert {part["prompts"] for part in json.loads(out.read_text())["scores"]} == {"imagenet"}


def test_videos_of_one_name_in_a_tar_stay_apart(hub: Hub) -> None:
    row, (first, second) = DATASETS["didemo"], (clip(4), clip(5))
    repository = hub.root / row.repository
    rows = [{"video": name, "caption": f"clip of {name}"} for name in ("b/1.mp4", "a/1.mp4", "2")]
    stand_ins.write_json(repository / "didemo_test.json", rows)
    members = {"../video/a/1.mp4": first, "../video/b/1.mp4": second, "/video/b/2.MP4": first}
    write_tar(repository / "DiDeMo_Videos_mp4_test.tar", members)
    data = read("didemo")
    assert isinstance(data, CaptionedMedia)
    assert [Path(str(item)).read_bytes() for item in data.media] == [second, first, first]
    assert all(Path(str(item)).is_relative_to(directory_of(row)) for item in data.media)


def test_a_path_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").mkdir()
    assert find_published("coco", "retrieval") is None and find_published("Flickr30k", "retrieval") is not None
    assert find_published("food101", "classification") is not None and find_published("mine", "knn") is None
    with pytest.raises(ConfigError, match=r"food101 is .*, not for knn"):
        find_published("food101", "knn")  # it has only its test split


def test_an_interrupted_download_continues(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(archive: Path, root: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(published.shutil, "unpack_archive", cut)
        download_dataset(DATASETS["ucf101"])
    download_dataset(DATASETS["ucf101"])
    assert not list(directory_of(DATASETS["ucf101"]).glob("*.zip"))


def test_a_later_version_that_reads_more_files_downloads_them(hub: Hub) -> None:
    row = DATASETS["food101"]
    assert not (download_dataset(replace(row, files=row.files[:1])) / "classnames.txt").exists()
    assert (download_dataset(row) / "classnames.txt").exists()


def test_what_cannot_be_had_is_one_line(hub: Hub) -> None:
    with pytest.raises(DataError, match=r"pets could not be downloaded \(404"):
        download_dataset(DATASETS["pets"])
    (hub.root / DATASETS["food101"].repository / "test" / "0.tar").rename(hub.root / "0.tar")
    with pytest.raises(DataError, match=r"wds_food101 has no test/\*\.tar"):
        download_dataset(DATASETS["food101"])
    path = next((hub.root / DATASETS["hmdb51"].repository).rglob("*.parquet"))
    pq.write_table(pq.read_table(path).rename_columns(["video", "audio", "class_id"]), path)
    with pytest.raises(DataError, match="mteb/HMDB51 has no column 'label'"):
        download_dataset(DATASETS["hmdb51"])
    with pytest.raises(DataError, match="imagenet cannot be downloaded"):
        download_dataset(DATASETS["imagenet"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_an_archive_of_the_authors(tmp_path: Path, server: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("datasets").config, "HF_HUB_OFFLINE", False)
    stand_ins.davis(tmp_path / "site" / "DAVIS-2017-trainval-480p.zip")
    row = replace(DATASETS["davis2017"], urls=(f"{server}/DAVIS-2017-trainval-480p.zip",))
    (video,) = read_videos(dataset_arguments(row, download_dataset(row))["data"])
    assert (video.name, len(video.frames)) == ("bike", 3)
    with pytest.raises(DataError, match=r"^davis2017 could not be downloaded \(404"):
        download_dataset(replace(row, urls=(f"{server}/moved.zip",)), tmp_path / "other")
    with pytest.raises(DataError, match=r"^davis2017 .*Cannot connect"):
        download_dataset(replace(row, urls=("http://127.0.0.1:1/davis.zip",)), tmp_path / "other")


def test_kinetics_from_its_site(tmp_path: Path, server: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("datasets").config, "HF_HUB_OFFLINE", False)
    stand_ins.kinetics(tmp_path / "site")
    row = DATASETS["kinetics400"]
    assert len(row.urls) == 21
    names = ("val.csv", "part_0.tar.gz", "part_1.tar.gz")
    arguments = dataset_arguments(row, download_dataset(replace(row, urls=tuple(f"{server}/{name}" for name in names))))
    (task,) = load_tasks(arguments["data"], "val", ClassOptions(media=Path(arguments["media"]))).values()
    assert list(task.names.values()) == ["abseiling", "air drumming"]
    assert [len(open_item(item, key, 2)) for key, item in zip(task.keys, task.images, strict=True)] == [2, 2]
    assert not list(directory_of(row).glob("*.gz"))


def test_depth_in_hdf5_becomes_png(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    row = DATASETS["nyuv2"]
    with monkeypatch.context() as patch, pytest.raises(MissingExtraError, match="h5py"):
        patch.setattr(published, "find_spec", lambda name: None)
        download_dataset(row)
    stand_ins.nyu(hub.root / row.repository)
    train, test = read_depth_splits(dataset_arguments(row, download_dataset(row))["data"])
    assert (len(train.keys), len(set(test.blocks))) == (8, 8)  # each test image is a block of its own
    assert open_image(test.images[0]).getpixel((5, 5)) == (10, 10, 10)
    assert test.depth(0)[:, 0] == pytest.approx(np.linspace(1, 4, 48), abs=0.0006)
    model = load_layers("builtin")
    depth, *_ = evaluate("depth", model, "nyuv2", layer=3, epochs=1, head_seeds=1, channels=8, size=64).scores
    assert (depth.name, depth.n) == ("RMSE", 8)


def test_a_large_archive_takes_its_time(tmp_path: Path, server: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    aiohttp, datasets = pytest.importorskip("aiohttp"), pytest.importorskip("datasets")
    http_files = pytest.importorskip("fsspec.implementations.http").HTTPFileSystem
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(aiohttp.client, "DEFAULT_TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    http_files.clear_instance_cache()  # whose sessions have the default from before
    send = http.server.SimpleHTTPRequestHandler.copyfile

    def send_slowly(*arguments: Any) -> None:
        time.sleep(0.5)
        send(*arguments)

    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "copyfile", send_slowly)
    stand_ins.davis(tmp_path / "site" / "davis.zip")
    row = replace(DATASETS["davis2017"], urls=(f"{server}/davis.zip",))
    assert (download_dataset(row) / "DAVIS").is_dir()


def test_rows_fit_their_tasks(tmp_path: Path) -> None:
    for name, row in DATASETS.items():
        assert bool(row.repository or row.urls) != bool(row.where), name
        assert set(row.unpack) <= set(row.files) or name == "ucf101", name
        if row.task == "questions":
            assert row.arguments["dataset"] in TASKS, name
        else:
            assert row.arguments.keys() <= inspect.signature(evaluate.tasks[row.task]).parameters.keys(), name
    table = pa.table({"video": [b"x"], "label": [0]})
    pq.write_table(table, tmp_path / "test-0.parquet")
    with pytest.raises(DataError, match=r"test-0\.parquet|no labelled images"):
        load_tasks(tmp_path, "test")
