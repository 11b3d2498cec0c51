"""Datasets of scenes: the same bytes with any number of processes, files that other programs read, clear errors."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import DataError, OutputError
from perception_encoder.formats.shards import read_shard
from synthetic.scenes.objects.models import ObjectLibrary
from synthetic.scenes.samples.images import ImageMaker
from synthetic.scenes.samples.production import make_samples, make_scenes
from synthetic.scenes.samples.sample import ScenesConfig


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


def test_the_authors_of_all_models_are_named(directory: Path) -> None:
    with tarfile.open(directory / "00000.tar") as tar:
        samples = [json.loads(tar.extractfile(name).read()) for name in tar.getnames() if name.endswith(".json")]
    expected = sorted({line for sample in samples for line in sample["attribution"]})
    assert (directory / "ATTRIBUTION.txt").read_text(encoding="utf-8").splitlines() == expected


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
        assert set(np.unique(mask)) - {0} == {each["id"] for each in metadata["objects"]}
        assert len(metadata["attribution"]) == len({each["model"] for each in metadata["objects"]})
        assert {"caption", "questions", "camera", "relations", "floor"} <= metadata.keys()
        for each in metadata["objects"]:
            near = depth[mask == each["id"]].mean() / 1000
            assert abs(near - each["depth"]) < np.linalg.norm(each["size"])  # at its position


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
            for annotation, each in zip(annotations, metadata["objects"], strict=True):
                assert np.array_equal(coco.annToMask(annotation), mask == each["id"])
                assert annotation["area"] == each["pixels"]
                assert coco.loadCats(annotation["category_id"])[0]["name"] == each["kind"]
    capsys.readouterr()


def test_splits_share_no_model(library: ObjectLibrary) -> None:
    models = {}
    for split in ("train", "test"):
        config = ScenesConfig(count=4, side=32, split=split)
        samples = make_samples(library, config, jobs=1)
        models[split] = {each["model"] for sample in samples for each in sample.metadata["objects"]}
    assert models["train"] and models["test"] and not models["train"] & models["test"]


def test_too_few_models_are_an_error(library: ObjectLibrary) -> None:
    few = ObjectLibrary({"test-crate": library["test-crate"]})
    with pytest.raises(DataError, match="two different classes"):
        list(make_samples(few, ScenesConfig(count=1, split=few.info["test-crate"].split), jobs=1))


def test_a_directory_that_is_not_empty_is_kept(library: ObjectLibrary, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        make_scenes(library, tmp_path, ScenesConfig(count=1), jobs=1)
    assert (tmp_path / "train" / "mine.txt").read_text() == "mine"
