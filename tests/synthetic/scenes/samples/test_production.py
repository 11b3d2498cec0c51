"""Datasets of scenes: the same bytes with any number of processes, files that other programs read, clear errors."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from synthetic.scenes.objects.bundled import revolved_models
from synthetic.scenes.objects.models import ObjectLibrary
from synthetic.scenes.samples import production
from synthetic.scenes.samples.images import ImageMaker
from synthetic.scenes.samples.production import make_samples, make_scenes
from synthetic.scenes.samples.sample import SceneSample, ScenesConfig
from synthetic.scenes.samples.videos import VideoMaker


def read_all(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.usefixtures("warm_pools")
def test_bytes_do_not_depend_on_processes(library: ObjectLibrary, tmp_path: Path) -> None:
    config = ScenesConfig(count=10, side=32, shard=6)
    written = make_scenes(library, tmp_path / "one", config, jobs=1)
    make_scenes(library, tmp_path / "two", config, jobs=2)
    files = read_all(tmp_path / "one" / "train")
    assert files == read_all(tmp_path / "two" / "train")
    assert list(files) == ["00000.tar", "00001.tar", "ATTRIBUTION.txt", "instances.json"]
    assert (written.samples, written.tars) == (10, 2) and written.models > 2
    with ImageMaker(library, config) as maker:  # and not on what was written before
        assert maker.sample(7).metadata == [*make_samples(library, config, jobs=1)][7].metadata


@pytest.mark.usefixtures("warm_pools")
def test_videos_do_not_depend_on_processes_either(library: ObjectLibrary, tmp_path: Path) -> None:
    config = ScenesConfig(count=4, side=48, frames=16, videos=True)
    for name, jobs in (("one", 1), ("two", 2)):
        make_scenes(library, tmp_path / name, config, jobs=jobs)
    files = read_all(tmp_path / "one" / "train")
    assert list(files) == ["00000.tar", "ATTRIBUTION.txt", "videos.json"]
    assert files == read_all(tmp_path / "two" / "train")


@pytest.fixture(scope="module")
def directory(library: ObjectLibrary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    return make_scenes(library, out, ScenesConfig(count=5, side=48, seed=3), jobs=1).directory


def test_samples_have_their_files_and_fields(directory: Path) -> None:
    with tarfile.open(directory / "00000.tar") as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    keys = sorted({name.partition(".")[0] for name in members})
    assert keys == [f"train-{number:07}" for number in range(5)]
    for key in keys:
        depth = np.asarray(Image.open(io.BytesIO(members[f"{key}.depth.png"])))
        mask = np.asarray(Image.open(io.BytesIO(members[f"{key}.mask.png"])))
        metadata = json.loads(members[f"{key}.json"])
        assert Image.open(io.BytesIO(members[f"{key}.jpg"])).size == (48, 48)
        assert depth.dtype == np.uint16 and depth.shape == mask.shape == (48, 48)
        assert set(np.unique(mask)) - {0} == {item["id"] for item in metadata["objects"]}
        assert len(metadata["attribution"]) == len({item["model"] for item in metadata["objects"]})
        assert {"caption", "questions", "camera", "relations", "floor"} <= metadata.keys()
        for item in metadata["objects"]:
            near = depth[mask == item["id"]].mean() / 1000
            assert abs(near - item["depth"]) < np.linalg.norm(item["size"])  # at its position


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_coco_reads_the_instances(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(directory / "instances.json"))
    with tarfile.open(directory / "00000.tar") as tar:
        for image in coco.loadImgs(coco.getImgIds()):
            stem = image["file_name"].removesuffix(".jpg")
            mask = np.asarray(Image.open(tar.extractfile(f"{stem}.mask.png")))
            metadata = json.load(tar.extractfile(f"{stem}.json"))
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            assert len(annotations) == len(metadata["objects"])
            for annotation, item in zip(annotations, metadata["objects"], strict=True):
                assert np.array_equal(coco.annToMask(annotation), mask == item["id"])
                assert annotation["area"] == item["pixels"]
                assert coco.loadCats(annotation["category_id"])[0]["name"] == item["kind"]
    capsys.readouterr()


def test_splits_share_no_model(library: ObjectLibrary) -> None:
    models = {}
    for split in ("train", "test"):
        config = ScenesConfig(count=4, side=32, split=split)
        samples = make_samples(library, config, jobs=1)
        models[split] = {item["model"] for sample in samples for item in sample.metadata["objects"]}
    assert models["train"] and models["test"] and not models["train"] & models["test"]


CONFIG = ScenesConfig(side=32, videos=True)


@pytest.fixture(scope="module")
def sample(library: ObjectLibrary) -> SceneSample:
    with VideoMaker(library, CONFIG) as maker:
        return maker.sample(1)


def test_tracks_and_events_agree_with_the_frames(sample: SceneSample) -> None:
    files = dict(sample.files)
    metadata = json.loads(files["json"])
    fields = {"category", "duration", "human_caption", "keywords", "model_caption", "video_id", "size_in_bytes"}
    assert fields <= metadata.keys()
    assert metadata["duration"] == 3 and metadata["size_in_bytes"] == len(files["mp4"])
    assert metadata["number_of_events"] == len(metadata["events"]) > 0
    with av.open(io.BytesIO(files["mp4"])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == CONFIG.frames == len(metadata["cameras"]) and frames[0].shape == (32, 32, 3)
    masks = np.asarray(Image.open(io.BytesIO(files["mask.png"]))).reshape(CONFIG.frames, 32, 32)
    moving = set()
    for track in metadata["tracks"]:
        for mask, box, pixels in zip(masks, track["boxes"], track["pixels"], strict=True):
            rows, columns = np.nonzero(mask == track["id"])
            assert len(rows) == pixels and (box is None) == (pixels == 0)
            if box:
                assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        places = [place for place in track["positions"] if place]
        spans = [np.ptp(np.array(values), axis=0).max() for values in (places, track["turns"])]
        if len(places) < CONFIG.frames or max(spans) > 0.05:
            moving.add(track["id"])
    assert moving == {event["object"] for event in metadata["events"]} - {None}
    answers = {question["question"]: question["answer"] for question in metadata["questions"]}
    assert len(answers) == 8
    assert answers.get("How many things move?", str(len(moving))) == str(len(moving))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "all"), "train, val, test"),
        (("--size", "33"), "even"),
        (("--models", "gone.tar"), "synthetic.furniture"),
    ],
)
def test_bad_settings_are_one_line(
    run_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(production, "bundled_models", revolved_models)
    run = run_module("scenes", "-o", tmp_path, *arguments)
    assert run.status == 2 and message in run.stderr and "Traceback" not in run.stderr
