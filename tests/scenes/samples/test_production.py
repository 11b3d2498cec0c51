"""Sets of scenes: the same bytes whatever the number of processes, files that other programs read, clear errors."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perception_encoder.data.shards import read_shard
from perception_encoder.errors import ConfigError, DataError, OutputError
from perception_encoder.scenes.layout.sampling import LayoutConfig, Layouts
from perception_encoder.scenes.layout.scene import CORNERS, Thing
from perception_encoder.scenes.objects.models import Library
from perception_encoder.scenes.samples.images import Pictures, millimetres, run_lengths
from perception_encoder.scenes.samples.production import ScenesConfig, make_scenes, produce
from tests.scenes.conftest import box_model


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_bytes_do_not_depend_on_processes(library: Library, tmp_path: Path) -> None:
    config = ScenesConfig(count=10, side=32, shard=6)
    made = make_scenes(library, tmp_path / "one", config, jobs=1)
    make_scenes(library, tmp_path / "two", config, jobs=2)
    files = everything(tmp_path / "one" / "train")
    assert files == everything(tmp_path / "two" / "train")
    assert list(files) == ["00000.tar", "00001.tar", "ATTRIBUTION.txt", "instances.json"]
    assert (made.samples, made.tars) == (10, 2) and made.models > 2
    with Pictures(library, "train", 32, seed=0) as pictures:  # and not on what was made before
        assert pictures.sample(7).metadata == [*produce(library, config, jobs=1)][7].metadata


def test_videos_do_not_depend_on_processes_either(library: Library, tmp_path: Path) -> None:
    config = ScenesConfig(count=4, side=48, frames=16, videos=True)
    for name, jobs in (("one", 1), ("two", 2)):
        make_scenes(library, tmp_path / name, config, jobs=jobs)
    files = everything(tmp_path / "one" / "train")
    assert list(files) == ["00000.tar", "ATTRIBUTION.txt", "videos.json"]
    assert files == everything(tmp_path / "two" / "train")


@pytest.fixture(scope="module")
def folder(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    return make_scenes(library, out, ScenesConfig(count=5, side=48, seed=3), jobs=1).folder


def test_a_set_says_whose_models_it_shows(folder: Path) -> None:
    with tarfile.open(folder / "00000.tar") as tar:
        samples = [json.loads(tar.extractfile(name).read()) for name in tar.getnames() if name.endswith(".json")]
    wanted = sorted({line for sample in samples for line in sample["attribution"]})
    assert (folder / "ATTRIBUTION.txt").read_text(encoding="utf-8").splitlines() == wanted


def test_samples_hold_what_was_agreed(folder: Path) -> None:
    with tarfile.open(folder / "00000.tar") as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    keys = sorted({name.partition(".")[0] for name in members})
    assert keys == [f"train-{number:07}" for number in range(5)]
    for key in keys:
        depth = np.asarray(Image.open(io.BytesIO(members[f"{key}.depth.png"])))
        mask = np.asarray(Image.open(io.BytesIO(members[f"{key}.mask.png"])))
        about = json.loads(members[f"{key}.json"])
        assert Image.open(io.BytesIO(members[f"{key}.jpg"])).size == (48, 48)
        assert depth.dtype == np.uint16 and depth.shape == mask.shape == (48, 48)
        assert set(np.unique(mask)) - {0} == {thing["id"] for thing in about["objects"]}
        assert len(about["attribution"]) == len({thing["model"] for thing in about["objects"]})
        assert {"caption", "questions", "camera", "relations", "floor"} <= about.keys()
        for thing in about["objects"]:
            near = depth[mask == thing["id"]].mean() / 1000
            assert abs(near - thing["depth"]) < np.linalg.norm(thing["size"])  # it is where it is said to be


def test_shards_serve_as_training_data(folder: Path) -> None:
    samples = list(read_shard(folder / "00000.tar"))
    assert len(samples) == 5 and all(sample.source == "scenes" and sample.label for sample in samples)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_coco_reads_the_instances(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(folder / "instances.json"))
    with tarfile.open(folder / "00000.tar") as tar:
        for image in coco.loadImgs(coco.getImgIds()):
            stem = image["file_name"].removesuffix(".jpg")
            mask = np.asarray(Image.open(tar.extractfile(f"{stem}.mask.png")))
            about = json.load(tar.extractfile(f"{stem}.json"))
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            assert len(annotations) == len(about["objects"])
            for annotation, thing in zip(annotations, about["objects"], strict=True):
                assert np.array_equal(coco.annToMask(annotation), mask == thing["id"])
                assert annotation["area"] == thing["pixels"]
                assert coco.loadCats(annotation["category_id"])[0]["name"] == thing["kind"]
    capsys.readouterr()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_run_lengths_are_cocos(bits: list[bool]) -> None:
    from pycocotools import mask as coco

    mask = np.array(bits).reshape(3, 4)
    encoded = coco.frPyObjects({"size": [3, 4], "counts": run_lengths(mask)}, 3, 4)
    assert np.array_equal(coco.decode(encoded), mask)


def test_depths_beyond_the_format_are_none() -> None:
    assert millimetres(np.array([0.0, 1.2345, 65.5, 70.0])).tolist() == [0, 1234, 65500, 0]


def test_splits_share_no_model(library: Library) -> None:
    shown = {}
    for split in ("train", "test"):
        config = ScenesConfig(count=4, side=32, split=split)
        samples = produce(library, config, jobs=1)
        shown[split] = {thing["model"] for sample in samples for thing in sample.metadata["objects"]}
    assert shown["train"] and shown["test"] and not shown["train"] & shown["test"]


def test_things_stand_apart_and_in_the_picture(library: Library) -> None:
    layouts = Layouts(library, library.select(), LayoutConfig())
    stacked = 0
    for number in range(20):
        scene = layouts.invent(np.random.default_rng(number))
        boxes = [_box(library, thing) for thing in scene.things]
        seen = scene.camera.project(np.concatenate(boxes), 1)
        assert seen[:, :2].min() > 0 and seen[:, :2].max() < 1
        for index, thing in enumerate(scene.things):
            below = None if thing.on is None else scene.things[thing.on]
            top = 0 if below is None else library.about[below.model].top.height + below.position[2]
            assert thing.position[2] == pytest.approx(top)  # nothing floats, nothing sinks
            stacked += below is not None
            for other, box in zip(scene.things[:index], boxes[:index], strict=True):
                if thing.on is None and other.on is None:
                    assert _distance(boxes[index], box) > 0
    assert stacked


def _box(library: Library, thing: Thing) -> np.ndarray:
    return (CORNERS * library.about[thing.model].size) @ thing.rotation.T + thing.position


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """The widest gap between two boxes' floors along any of 90 directions; negative where they overlap."""
    angles = np.arange(90) * np.pi / 90
    ways = np.stack([np.cos(angles), np.sin(angles)])
    one, other = first[:, :2] @ ways, second[:, :2] @ ways
    return float(np.maximum(one.min(0) - other.max(0), other.min(0) - one.max(0)).max())


def test_what_goes_with_nothing_else_stands_alone() -> None:
    models = [box_model("crate", (0.2, 0.3, 0.25)), box_model("tower", (2.0, 2.0, 5.0))]
    few = Library({model.about.key: model for model in models})
    scene = Layouts(few, few.select(), LayoutConfig(again=0.0)).invent(np.random.default_rng(0))
    assert len(scene.things) == 1


def test_too_few_models_are_an_error(library: Library) -> None:
    few = Library({"test-crate": library["test-crate"]})
    with pytest.raises(DataError, match="two different kinds"):
        list(produce(few, ScenesConfig(count=1, split=few.about["test-crate"].split), jobs=1))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"side": 33}, "even"),
        ({"side": 8}, "16 to 1024"),
        ({"count": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"split": "all"}, "train, val, test"),
        ({"frames": 4}, "8 frames"),
    ],
)
def test_settings_have_limits(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ScenesConfig(**values)


def test_a_set_replaces_nothing(library: Library, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="not empty"):
        make_scenes(library, tmp_path, ScenesConfig(count=1), jobs=1)
    assert (tmp_path / "train" / "mine.txt").read_text() == "kept"
