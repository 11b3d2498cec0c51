"""Training data of one's own: class directories and tables, and their splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perception_encoder.data.image_text import ImageTextSet
from perception_encoder.errors import DataError
from perception_encoder.pretraining.sources import has_split, read_files
from synthetic.builtin.rules import RULES


def load(paths: Path | list[Path], split: str = "train", image_side: int = 160, **more: Any) -> ImageTextSet:
    """As a run loads them."""
    return ImageTextSet.from_directory(paths, split, image_side, rules=RULES, read_files=read_files, **more)


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
    assert "a photo of a red mug." in loaded.by_source()["mugs"][-1].captions


def test_tables_of_labels_and_of_captions(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "labels.csv").write_text("path,label,split\na.png,red mug,train\nb.png,plate,val\nc.png,plate,train\n")
    loaded = load(tmp_path / "labels.csv")
    assert [(s.key, s.label) for s in loaded] == [("a.png", "red mug"), ("c.png", "plate")]
    assert loaded[0].source == "labels"
    rows = ["file\tcaption", "a.png\tMy  mug", "b.png\tA plate.", "a.png\tred & round"]
    (tmp_path / "words.tsv").write_text("\n".join(rows))
    first, second = load(tmp_path / "words.tsv")
    assert (first.captions, second.captions) == ({"my mug", "red & round"}, {"a plate."})
    drawn = {first.caption(np.random.default_rng(seed)) for seed in range(20)}
    assert drawn == first.captions and first.source == "words"


def test_other_layouts_are_answered_with_those_that_are_read(tmp_path: Path) -> None:
    write_images(tmp_path / "loose", ["a.png", "b.png"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no table")
    (tmp_path / "paths.csv").write_text("path,size\na.png,3\n")
    for name, reason in {
        "loose": "has 2 images outside of any class directory",
        "empty": "has no training data",
        "notes.txt": "is neither a directory nor a table",
        "nowhere": "does not exist",
    }.items():
        with pytest.raises(DataError, match=rf"{name} {reason}; --data takes .*DIR/CLASS/.*`caption`.*--shards takes"):
            load(tmp_path / name)
    with pytest.raises(DataError, match=r"paths\.csv has no column 'label' .* 'path', 'size'"):
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
    assert [sample.key for sample in read_files(tmp_path / "split", "val")] == ["cup/b.png"]
    assert [sample.key for sample in read_files(tmp_path / "table.csv", "val")] == ["split/val/cup/b.png"]
