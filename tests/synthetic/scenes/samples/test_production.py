"""Datasets of scenes: the same bytes with any number of processes, files that other programs read, clear errors."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, OutputError
from perception_encoder.formats.shards import read_shard
from synthetic.scenes.layout.scene import PlacedObject
from synthetic.scenes.objects.bundled import revolved_models
from synthetic.scenes.objects.models import ObjectLibrary
from synthetic.scenes.rendering.motion import AWAY
from synthetic.scenes.samples import production
from synthetic.scenes.samples.images import ImageMaker
from synthetic.scenes.samples.production import make_samples, make_scenes
from synthetic.scenes.samples.sample import SceneSample, ScenesConfig
from synthetic.scenes.samples.videos import VideoMaker
from tests.data.tars import load_webdataset
from tests.synthetic.scenes.conftest import STACK, scene_of


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


def test_the_datasets_of_the_hub_reads_the_tars(directory: Path, tmp_path: Path) -> None:
    loaded = load_webdataset(directory, tmp_path)
    assert len(loaded) == 5 and all(relation["relation"] for scene in loaded for relation in scene["relations"])


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


def test_shards_are_training_data(directory: Path) -> None:
    samples = list(read_shard(directory / "00000.tar"))
    assert len(samples) == 5 and all(sample.source == "scenes" and sample.label for sample in samples)


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


def test_a_directory_that_is_not_empty_is_kept(library: ObjectLibrary, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        make_scenes(library, tmp_path, ScenesConfig(count=1), jobs=1)
    assert (tmp_path / "train" / "mine.txt").read_text() == "mine"


def test_an_image_with_a_hidden_object_is_refused(library: ObjectLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = PlacedObject(model="pybullet-cylinder", position=(0.0, 0.6, 0.0))
    with ImageMaker(library, ScenesConfig(side=64)) as maker:
        for scene, refused in (
            (scene_of(*STACK), False),
            (scene_of(PlacedObject(model="test-table", position=(0.0, -0.9, 0.4)), hidden), True),
        ):
            monkeypatch.setattr(maker.sampler, "sample", lambda generator, scene=scene: scene)
            assert (maker.attempt(0, np.random.default_rng(0)) is None) == refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"side": 33}, "even"),
        ({"side": 8}, "16 to 1024"),
        ({"count": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"split": "all"}, "train, val, test"),
        ({"frames": 4}, "at least 16"),
    ],
)
def test_settings_have_limits(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScenesConfig(**values)


def test_failed_attempts_end_in_an_error(library: ObjectLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []
    with ImageMaker(library, ScenesConfig(split="test")) as maker:
        monkeypatch.setattr(maker, "attempt", lambda number, generator: attempts.append(number))
        with pytest.raises(DataError, match=r"test image 3: no valid scene in 60 tries"):
            maker.sample(3)
    assert attempts == [3] * 60


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


def test_a_video_that_begins_empty_is_refused(library: ObjectLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    with VideoMaker(library, CONFIG) as maker:
        simulate, videos = maker._simulate, []
        monkeypatch.setattr(maker, "_simulate", lambda generator: videos.append(simulate(generator)) or videos[-1])
        maker.sample(1)
        falling = videos[-1].poses.copy()
        falling[0, :, 2] = AWAY
        for poses, refused in ((videos[-1].poses, False), (falling, True)):
            video = replace(videos[-1], poses=poses)
            monkeypatch.setattr(maker, "_simulate", lambda _, video=video: video)
            assert (maker.attempt(1, np.random.default_rng(0)) is None) == refused


def test_scenes_are_made(run_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "bundled_models", revolved_models)
    run = run_module("scenes", "-o", tmp_path, "--count", 2, "--size", 32, "--jobs", 1)
    assert run.status == 0 and "2 images" in run.stdout
    written = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert written == ["00000.tar", "ATTRIBUTION.txt", "instances.json"]


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
