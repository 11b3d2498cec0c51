"""Sources of a run: weights of directories, tables and shards of images or videos, and their held-out parts."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.data.packing import ShardSize, pack
from perception_encoder.data.pairs import alone
from perception_encoder.data.streams import Shards, StreamConfig
from perception_encoder.datasets.training_files import has_split, read_split
from perception_encoder.errors import CheckpointError, DataError
from perception_encoder.formats.shards import ShardSample, read_shard
from perception_encoder.models.checkpoints.weights import create_model, load_model
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining import run
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.recipes import core_n16, debug_pretraining
from perception_encoder.pretraining.run import pretrain
from perception_encoder.pretraining.sources import ImageTextSet, open_sources, read_pairs
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.progress import untracked
from synthetic.shards import write_shard
from tests.clips import clip
from tests.data.tars import write_tar
from tests.pretraining.toys import debug, gradients, small_batch, small_towers
from tests.recipes import debug_recipe
from tests.training.toys import losses, train_by_ranks


def test_one_s_own_images_count_by_their_number_beside_the_weights(photos: Path, tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / "mine" / f"c{number}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (9 * number, 0, 0)).save(path)
    (tmp_path / "words.csv").write_text("path,caption\nmine/c1/a.png,dark red\n")
    config = dataclasses.replace(debug(), weights={"flowers": 2.0, "noto": 1.0})

    def shares(*data: Path) -> dict[str, float]:
        sources = open_sources(config, data, run.build_model(config), alone, untracked)
        return dict(zip(sources.samples, sources.weights, strict=True))

    mine, words = tmp_path / "mine", tmp_path / "words.csv"
    assert shares(photos) == {"flowers": 2.0}  # 20 pictures; Caltech-101's have no weight
    assert shares(photos, mine, words) == {"flowers": 2.0, "mine": pytest.approx(0.5), "words": pytest.approx(0.1)}
    assert shares(mine, words) == {"mine": 5.0, "words": 1.0}


NAMES = ("contrastive", "mask", "left_out")


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one tar of 40 small images, one of them damaged, and a cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    rng, directory = np.random.default_rng(0), tmp_path / "pictures"
    directory.mkdir()
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(directory / f"{number}.jpg")
        (directory / f"{number}.txt").write_text(
            f"the picture with the number {number}, " + "and so on " * (number % 20)
        )
    pack(directory, tmp_path / "shards", ShardSize(samples=100))
    content = (tmp_path / "shards" / "00000.tar").read_bytes()
    head = content.index(b"\xff\xd8\xff")
    (tmp_path / "shards" / "00000.tar").write_bytes(content[:head] + bytes(600) + content[head + 600 :])
    return tmp_path / "shards"


def small(**settings: object) -> PretrainingConfig:
    return dataclasses.replace(debug_pretraining(core_n16()), **settings)


def test_a_run_from_shards_trains_all_words_and_counts_what_it_left_out(shards: Path, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    path = pretrain(small(), [Shards(str(shards))], tmp_path / "run", listener=rows.append)
    assert all(np.isfinite(row["contrastive"]) for row in rows)
    assert rows[-1]["left_out"] >= 1  # 64 pairs of 40
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["samples"] == {str(shards): 40}
    table = load_model(path).text.token_embedding.weight
    assert table[Tokenizer(32)("xylophone")[0, 1]].abs().max() > 0  # in no caption, but it may turn up in some shard
    assert table.shape == create_model("builtin").text.token_embedding.weight.shape


def test_other_shards_or_settings_are_another_run(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(small(), [Shards(str(shards))], out)
    pretrain(small(), [Shards(str(shards / "*.tar"))], out)  # the same tars by another name
    with pytest.raises(CheckpointError, match="belongs to a run with other settings "):
        pretrain(small(), [Shards(str(shards), 2.0)], out)
    with pytest.raises(DataError, match="give one kind"):
        pretrain(small(), [Shards(str(shards)), tmp_path], out)


def test_ranks_train_on_one_shard_as_one_process_and_go_on_where_others_stopped(shards: Path, tmp_path: Path) -> None:
    def train(name: str, ranks: int) -> list[list[float]]:
        recipe = ("core_n16", "--debug", "--shards", shards)
        return losses(train_by_ranks(tmp_path / name, ranks, *recipe, settings=["masking.every=4"]), *NAMES)

    one = train("one", 1)
    expected = [pytest.approx(row, rel=5e-5) for row in one]
    assert train("two", 2) == expected and len(one) == 4 and len(one[-1]) == 3  # samples were left out
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000004")
    assert [row[:2] for row in train("two", 1)] == [pytest.approx(row[:2], rel=5e-5) for row in one]


def load(*paths: Path, split: str = "train", image_side: int = 160) -> ImageTextSet:
    """As a run loads them."""
    return read_pairs(paths, split, image_side)


def write_images(directory: Path, names: list[str], size: tuple[int, int] = (60, 40)) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 0, 0)).save(directory / name)


@pytest.mark.parametrize("inner", ["", "train"])
def test_class_directories_are_read_as_torchvision_reads_them(inner: str, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    directory = tmp_path / "mugs"
    names = ["red_mug/a.jpg", "red_mug/b.JPEG", "plate/c.png", "plate/deep/d.webp"]
    write_images(directory / inner, names)
    write_images(directory / ("val" if inner else ".hidden"), ["plate/other.png"] if inner else [])
    loaded = load(directory, image_side=32)
    theirs = ImageFolder(str(directory / inner))
    expected = [
        (str(Path(path).relative_to(directory / inner)), theirs.classes[number].replace("_", " "))
        for path, number in theirs.samples
    ]
    assert sorted((s.key, s.label) for s in loaded) == sorted(expected) and len(loaded) == 4
    assert {s.source for s in loaded} == {"mugs"} and {tuple(s.image.shape) for s in loaded} == {(3, 32, 48)}
    assert "a photo of a red mug." in loaded.by_source()["mugs"][-1].pair.captions


def test_tables_of_labels_and_of_captions(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "labels.csv").write_text("path,label,split\na.png,red mug,train\nb.png,plate,val\nc.png,plate,train\n")
    loaded = load(tmp_path / "labels.csv")
    assert [(s.key, s.label) for s in loaded] == [("a.png", "red mug"), ("c.png", "plate")]
    assert loaded[0].source == "labels"
    rows = ["file\tcaption", "a.png\tMy  mug", "b.png\tA plate.", "a.png\tred & round"]
    (tmp_path / "words.tsv").write_text("\n".join(rows))
    first, second = load(tmp_path / "words.tsv")
    assert (first.pair.captions, second.pair.captions) == ({"my mug", "red & round"}, {"a plate."})
    drawn = {first.pair.caption(np.random.default_rng(seed)) for seed in range(20)}
    assert drawn == first.pair.captions and first.source == "words"


def test_other_layouts_are_answered_with_those_that_are_read(tmp_path: Path) -> None:
    write_images(tmp_path / "loose", ["a.png", "b.png"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no table")
    (tmp_path / "paths.csv").write_text("path,size\na.png,3\n")
    for name in ("loose", "empty", "notes.txt", "nowhere"):
        message = rf"{name} has no training data; --data takes .*DIR/CLASS/.*`caption`.*--shards takes"
        with pytest.raises(DataError, match=message):
            load(tmp_path / name)
    with pytest.raises(DataError, match=r"paths\.csv has no column 'label'"):
        load(tmp_path / "paths.csv")


def test_a_split_is_found_only_where_the_data_name_it(make_shard, tmp_path: Path) -> None:
    write_images(tmp_path / "plain", ["cup/a.png", "val/b.png"])  # a class that is called val
    write_images(tmp_path / "split", ["train/cup/a.png", "val/cup/b.png"])
    make_shard("shards/val.tar", [("flowers", "rose")])
    (tmp_path / "table.csv").write_text(
        "path,label,split\nplain/cup/a.png,cup,train\nsplit/val/cup/b.png,cup,validation\n"
    )
    (tmp_path / "whole.csv").write_text("path,label\nplain/cup/a.png,cup\n")
    names = ("plain", "split", "shards", "table.csv", "whole.csv")
    assert [has_split(tmp_path / name, "val") for name in names] == [False, True, True, True, False]
    assert [sample.key for sample in read_split(tmp_path / "split", "val")] == ["cup/b.png"]
    assert [sample.key for sample in read_split(tmp_path / "table.csv", "val")] == ["split/val/cup/b.png"]


def test_samples_of_all_directories_in_order(make_shard, tmp_path: Path) -> None:
    make_shard("a/train.tar", [("flowers", "rose"), ("clothing", "hat")])
    make_shard("b/train/noto.tar", [("noto", "cat")])
    loaded = load(tmp_path / "a", tmp_path / "b")
    assert [(s.key, s.source, s.label) for s in loaded] == [
        ("flowers-0", "flowers", "rose"),
        ("clothing-1", "clothing", "hat"),
        ("noto-0", "noto", "cat"),
    ]
    assert {name: len(part) for name, part in loaded.by_source().items()} == {"clothing": 1, "flowers": 1, "noto": 1}
    assert "rose" in loaded[0].pair.caption(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("size", "shape"),
    [((30, 20), (3, 20, 30)), ((90, 45), (3, 32, 64)), ((40, 81), (3, 65, 32)), ((32, 32), (3, 32, 32))],
)
def test_large_images_are_scaled_by_their_short_side(make_shard, size: tuple[int, int], shape: tuple) -> None:
    path = make_shard("a/train.tar", [("flowers", "rose")], size=size)
    [sample] = load(path, image_side=32)
    assert tuple(sample.image.shape) == shape
    assert sample.image.dtype == torch.uint8
    assert sample.image[:, 5, 5].tolist() == [200, 0, 0]


def test_an_image_that_cannot_be_decoded_is_reported_and_left_out(
    make_shard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = list(read_shard(make_shard("a/train.tar", [("flowers", "rose")] * 3, size=(300, 200))))
    cut = ShardSample("cut", "png", samples[1].image[:-200], samples[1].metadata)
    write_shard(
        tmp_path / "a" / "train.tar", [samples[0], cut, samples[2], ShardSample("none", "jpg", b"", cut.metadata)]
    )
    with caplog.at_level(logging.WARNING):
        loaded = load(tmp_path / "a")
    assert [sample.key for sample in loaded] == ["flowers-0", "flowers-2"]
    assert "left out cut" in caplog.text and "left out none" in caplog.text


def test_rare_labels_are_repeated_without_copies(make_shard, tmp_path: Path) -> None:
    make_shard("a/train.tar", [("flowers", "rose")] * 9 + [("flowers", "daisy")])
    loaded = load(tmp_path / "a")
    assert Counter(sample.label for sample in loaded.balanced()) == {"rose": 9, "daisy": 3}
    assert Counter(sample.label for sample in loaded.balanced(power=1)) == {"rose": 9, "daisy": 9}
    assert loaded.balanced(power=1)[-1] is loaded[-1]


def test_the_real_photographs(real_data: Path) -> None:
    loaded = load(real_data / "photos", split="val", image_side=128)
    assert len(loaded) == 1771
    assert all(sample.image.shape[0] == 3 and min(sample.image.shape[1:]) <= 128 for sample in loaded)
    assert len({sample.label for sample in loaded.by_source()["caltech101"]}) == 81


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tar of ten small videos, each with its caption as the video dataset has it (section 2.3)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    members = {}
    for number in range(10):
        said = {"human_caption": f"the clip with the number {number}", "duration": 0.5}
        members |= {f"{number}.mp4": clip(count=6 + number), f"{number}.json": json.dumps(said).encode()}
    return write_tar(tmp_path / "clips.tar", members)


def test_a_run_on_videos(clips: Path, photos: Path, tmp_path: Path) -> None:
    config = debug_recipe("video_finetune_b16")
    assert isinstance(config, PretrainingConfig) and config.frames == 2
    config = dataclasses.replace(config, streams=StreamConfig(captions={"human_caption": 1.0}))
    rows: list[dict[str, float]] = []
    path = pretrain(config, [Shards(str(clips))], tmp_path / "run", listener=rows.append)
    assert load_model(path).name == "PE-Core-N16-128"
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(np.isfinite(row["contrastive"]) for row in rows)
    with pytest.raises(DataError, match="give --shards"):
        pretrain(config, [photos], tmp_path / "other")
    with pytest.raises(DataError, match="no images with captions"):
        pretrain(dataclasses.replace(config, frames=None), [Shards(str(clips))], tmp_path / "other")


@pytest.mark.parametrize("frames", [2, 6])
def test_no_more_frames_than_a_chunk_are_held_at_a_time(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the videos are: their frames go through the tower one chunk after the other, again backward."""
    towers, whole = small_towers(chunk=2), small_towers()
    batch = dataclasses.replace(small_batch(), masked=None, masks=None)
    shades = torch.arange(frames, dtype=torch.uint8)[None, :, None, None, None]
    batch = dataclasses.replace(batch, images=batch.images[:, None] + shades)
    expected = gradients(whole, ContrastiveTask(whole).losses(batch)["contrastive"])
    counts: list[int] = []
    encode = towers.clip.visual.forward
    monkeypatch.setattr(towers.clip.visual, "forward", lambda x, mask=None: (counts.append(len(x)), encode(x, mask))[1])
    actual = gradients(towers, ContrastiveTask(towers).losses(batch)["contrastive"])
    assert counts == [2] * len(batch.images) * frames  # in chunks of two, each once forward and once backward
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
