"""Samples in memory: sizes, what training never sees, and pictures that cannot be decoded."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from perception_encoder.data.image_text import ImageTextSet
from perception_encoder.data.packing import ShardSize, pack
from perception_encoder.errors import DataError
from perception_encoder.formats.shards import ShardSample, read_shard, write_shard
from perception_encoder.pretraining.sources import read_files
from synthetic.builtin.rules import RULES


def load(paths: Path | list[Path], split: str = "train", image_side: int = 160, **more: Any) -> ImageTextSet:
    """As a run loads them."""
    return ImageTextSet.from_directory(paths, split, image_side, rules=RULES, read_files=read_files, **more)


def test_samples_of_all_directories_in_order(make_shard, tmp_path: Path) -> None:
    make_shard("a/train.tar", [("flowers", "rose"), ("clothing", "hat")])
    make_shard("b/train/noto.tar", [("noto", "cat")])
    loaded = load([tmp_path / "a", tmp_path / "b"])
    assert [(s.key, s.source, s.label) for s in loaded] == [
        ("flowers-0", "flowers", "rose"),
        ("clothing-1", "clothing", "hat"),
        ("noto-0", "noto", "cat"),
    ]
    assert {name: len(part) for name, part in loaded.by_source().items()} == {"clothing": 1, "flowers": 1, "noto": 1}
    assert loaded[0].colours == ("red",)
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


def test_training_never_sees_the_unseen_classes(make_shard, tmp_path: Path) -> None:
    labels = ["crocodile", "hedgehog", "mandolin", "cougar", "flamingo", "menorah", "airplane", "wild cat"]
    labels += ["windsor chair", "cannon", "ant", "watch"]
    for split in ("train", "val"):
        rows = [("caltech101", label) for label in labels]
        make_shard(f"a/{split}.tar", [*rows, ("noto", "cougar"), ("noto", "cat")])
    train = load(tmp_path / "a")
    assert [(s.source, s.label) for s in train] == [("caltech101", "ant"), ("caltech101", "watch"), ("noto", "cat")]
    assert len(load(tmp_path / "a", split="val")) == 14


def test_held_out_data_is_refused_for_training(make_shard, tmp_path: Path) -> None:
    make_shard("a/train/styles.tar", [("noto", "cat"), ("openmoji", "cat")])
    with pytest.raises(DataError, match="openmoji must not be trained on"):
        load(tmp_path / "a")
    make_shard("b/train/test.tar", [("flowers", "rose")])
    with pytest.raises(DataError, match="'test'"):
        load(tmp_path / "b")
    unseen = make_shard("c/unseen/openmoji.tar", [("openmoji", "cat")])
    with pytest.raises(DataError, match="'unseen'"):
        load(unseen)
    assert len(load(tmp_path / "c", split="unseen")) == 1


def test_a_image_that_cannot_be_decoded_is_reported_and_left_out(
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


def write_images(directory: Path, names: list[str], size: tuple[int, int] = (60, 40)) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 0, 0)).save(directory / name)


def test_a_turned_photograph_is_read_upright(tmp_path: Path) -> None:
    (tmp_path / "mugs" / "red").mkdir(parents=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "mugs" / "red" / "a.jpg", exif=exif)
    assert load(tmp_path / "mugs")[0].image.shape == (3, 60, 40)
    pack(tmp_path / "mugs", tmp_path / "packed" / "train", ShardSize(samples=10))
    assert load(tmp_path / "packed")[0].image.shape == (3, 60, 40)


def test_held_out_sources_and_unseen_classes_are_kept_out_of_class_directories(make_shard, tmp_path: Path) -> None:
    make_shard("photos/train.tar", [("caltech101", f"x{n}") for n in range(9)] + [("caltech101", "crocodile")])
    write_images(tmp_path / "mine", ["Crocodile/a.png", "plate/b.png"])
    write_images(tmp_path / "openmoji", ["cat/a.png"])
    loaded = load([tmp_path / "photos", tmp_path / "mine"])
    assert [sample.label for sample in loaded] == ["plate"]  # all ten labels of the shard are unseen, too
    with pytest.raises(DataError, match="openmoji must not be trained on"):
        load(tmp_path / "openmoji")


@pytest.mark.parametrize("field", [{"tags": 3}, {"tags": "red"}, {"tags": ["red", 3]}, {"coarse": ["a"]}, {"kids": {}}])
def test_a_sample_with_a_field_of_a_wrong_type_is_left_out(
    make_shard, tmp_path: Path, caplog: pytest.LogCaptureFixture, field: dict
) -> None:
    good = list(read_shard(make_shard("a/train.tar", [("flowers", "rose"), ("flowers", "lily")])))
    bad = ShardSample("bad", "png", good[0].image, good[0].metadata | field)
    null = ShardSample("null", "png", good[0].image, good[0].metadata | dict.fromkeys(field))
    write_shard(tmp_path / "a" / "train.tar", [*good, bad, null])
    loaded = load(tmp_path / "a")
    assert f"left out bad: {next(iter(field))!r}" in caplog.text
    assert all(sample.pair.captions for sample in loaded) and loaded[2].pair.captions == loaded[0].pair.captions


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
