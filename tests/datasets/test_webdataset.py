"""WebDataset tars in the layouts of CLIP_benchmark and open_clip, written by webdataset itself."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path

import pytest

from perception_encoder.datasets.captioned import load_captions
from perception_encoder.datasets.classified import ClassOptions, load_tasks
from perception_encoder.errors import DataError
from perception_encoder.formats.shards import find_tars
from perception_encoder.formats.tars import TarMember
from tests.data.tars import image_bytes, write_tar

NAMES = ["red cup", "green_cup", "blue cup", "grey cup"]


def write_classes(directory: Path, splits: tuple[str, ...] = ("test",), names: list[str] | None = NAMES) -> Path:
    """As `clip_benchmark_export_wds` does: three tars a split, of four samples each."""
    webdataset = pytest.importorskip("webdataset")
    for split in splits:
        (directory / split).mkdir(parents=True)
        with webdataset.ShardWriter(str(directory / split / "%d.tar"), maxcount=4, verbose=0) as sink:
            for number in range(11):
                image = image_bytes(20 * (number % 3), "WEBP")
                sink.write({"__key__": f"s{number:07}", "webp": image, "cls": number % 3})
        (directory / split / "nshards.txt").write_text("3\n")
    if names is not None:
        (directory / "classnames.txt").write_text("".join(f"{name}\n" for name in names))
    return directory


def write_captions(directory: Path, **texts: str) -> Path:
    members: dict[str, bytes] = {}
    for number, (key, text) in enumerate(texts.items()):
        members |= {f"{key}.jpg": image_bytes(number, "JPEG"), f"{key}.txt": text.encode(), f"{key}.json": b"{}"}
    write_tar(directory / "0.tar", members)
    return directory


def test_numbers_of_classes_are_named(tmp_path: Path) -> None:
    ((name, task),) = load_tasks(write_classes(tmp_path / "wds_cups"), "test").items()
    assert name == "wds_cups" and task.labels == tuple(str(n % 3) for n in range(11))
    assert task.classes == ("0", "1", "2", "3")  # of the file, as CLIP_benchmark chooses among all
    assert [task.names[class_] for class_ in task.classes] == ["red cup", "green cup", "blue cup", "grey cup"]
    assert task.keys[:2] == ("0/s0000000", "0/s0000001") and task.keys[-1] == "2/s0000010"
    first = task.images[0]
    assert isinstance(first, TarMember) and first.read("a") == image_bytes(0, "WEBP")


def test_tars_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_tar(tmp_path / "test" / f"{number}.tar", {"a.png": image_bytes(1), "a.cls": b"0"})
    assert [tar.stem for tar in find_tars(tmp_path, "test")] == ["0", "2", "10"]
    assert find_tars(tmp_path, "train") == []
    assert find_tars(tmp_path / "test", "test") == find_tars(tmp_path, "test")
    with pytest.raises(DataError, match="of the split 'test'"):
        find_tars(tmp_path / "test" / "2.tar", "train")
    assert find_tars(tmp_path / "test" / "2.tar", "test") == [tmp_path / "test" / "2.tar"]


def test_other_names_and_no_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_classes(tmp_path / "wds", names=None)
    (tmp_path / "own.txt").write_text("a\nb\nc\nd\n")
    task = load_tasks(data, "test", ClassOptions(classes=str(tmp_path / "own.txt")))["wds"]
    assert task.labels[:3] == ("a", "b", "c") and task.classes == ("a", "b", "c")  # those that occur, unless asked
    with caplog.at_level(logging.WARNING):
        assert load_tasks(data, "test")["wds"].names == {"0": "0", "1": "1", "2": "2"}
    assert "has no classnames.txt" in caplog.text


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": image_bytes(1), "a.cls": b"9"}, r"0/a\.cls is '9'; it must be a class's number, 0 to 3, the"),
        ({"a.png": image_bytes(1), "a.cls": b"cat"}, r"0/a\.cls is 'cat'"),
        ({"a.cls": b"1"}, r"0\.tar: 1 samples lack an image or a \.cls; the first is a"),
        ({"a.png": image_bytes(1), "a.cls": b"1", "b.png": image_bytes(2)}, "the first is b"),
    ],
)
def test_samples_that_do_not_do(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("\n".join(NAMES))
    write_tar(tmp_path / "test" / "0.tar", members)
    with pytest.raises(DataError, match=message):
        load_tasks(tmp_path, "test")


def test_an_image_that_is_a_link_is_named(tmp_path: Path) -> None:
    """Before, it was an image of no bytes, that could not be decoded."""
    tar = write_tar(tmp_path / "test" / "0.tar", {"a.png": image_bytes(1), "a.cls": b"0", "b.cls": b"0"})
    with tarfile.open(tar, "a") as archive:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"b\.png is a link to a\.png"):
        load_tasks(tmp_path, "test")


def test_captions_are_lines_of_texts(tmp_path: Path) -> None:
    data = write_captions(tmp_path / "wds_flickr", a="a red cup\nA cup, red.\n\n", b="a dog")
    found = load_captions(data)
    assert (found.keys, found.captions) == (("0/a", "0/b"), (("a red cup", "A cup, red."), ("a dog",)))
    assert found.name == "wds_flickr"
    assert load_captions(data / "0.tar").captions == found.captions
    with pytest.raises(DataError, match=r"0/a has no caption"):
        load_captions(write_captions(tmp_path / "other", a="\n"))
    with pytest.raises(DataError, match=r"is a directory without test\.tar"):
        load_captions(tmp_path)
