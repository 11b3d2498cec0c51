"""Classification sets in the usual layouts, ImageNet's family and Kinetics' clips among them, and names of classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perception_encoder.datasets.classified import (
    ClassNames,
    ClassOptions,
    has_labels,
    imagenet_classes,
    load_tasks,
    read_class_names,
    read_mapping,
)
from perception_encoder.errors import DataError
from perception_encoder.formats.media_directory import Clip
from tests.data.tars import write_file


def touch(directory: Path, *names: str) -> Path:
    for name in names:
        write_file(directory / name, b"-")
    return directory


def only(tasks: dict):
    (task,) = tasks.values()
    return task


def test_directories_are_classes_and_splits_are_directories(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "val/tree_frog/b.JPEG",
        "val/tree_frog/a.png",
        "val/ant/x/c.mp4",
        "val/ant/notes.txt",
        "val/ant/.h.jpg",
    )
    task = only(load_tasks(tmp_path, "val"))
    assert task.keys == ("ant/x/c.mp4", "tree_frog/a.png", "tree_frog/b.JPEG")
    assert task.labels == ("ant", "tree_frog", "tree_frog")
    assert (task.classes, task.names["tree_frog"]) == (("ant", "tree_frog"), "tree frog")
    assert only(load_tasks(tmp_path / "val", "test")).labels == task.labels
    with pytest.raises(DataError, match="has no split 'test', but val"):
        load_tasks(tmp_path, "test")


def test_the_imagenet_family_names_its_directories_in_three_ways(tmp_path: Path) -> None:
    imagenet = ClassOptions(classes="imagenet")
    by_id = only(load_tasks(touch(tmp_path / "a", "n02119789/1.jpg", "n01440764/2.jpg"), "test", imagenet))
    assert by_id.classes == ("n01440764", "n02119789")  # in ImageNet's order; those that the set has
    assert [by_id.names[class_] for class_ in by_id.classes] == ["tench", "kit fox"]
    by_number = only(load_tasks(touch(tmp_path / "v2", "0/1.jpg", "278/2.jpg"), "test", imagenet))
    assert by_number.labels == by_id.classes
    with pytest.raises(DataError, match="'pond' is not a class of ImageNet"):
        load_tasks(touch(tmp_path / "c", "pond/1.jpg"), "test", imagenet)


def objectnet(tmp_path: Path) -> dict[str, Path]:
    touch(tmp_path / "images", "air_freshener/1.png", "alarm_clock/2.png", "bench/3.png")
    names = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "bench": "Bench"}
    counterparts = {"Alarm clock": "analog clock; digital clock", "Bench": "park bench"}
    result = {"names": names, "counterparts": counterparts}
    for name, content in result.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return {name: tmp_path / f"{name}.json" for name in result}


def test_objectnet_keeps_what_has_a_counterpart_under_its_own_names(tmp_path: Path) -> None:
    files = objectnet(tmp_path)
    options = ClassOptions(classes=str(files["names"]), mapping=files["counterparts"])
    task = only(load_tasks(tmp_path / "images", "test", options))
    assert (task.labels, task.classes, task.trim) == (("alarm_clock", "bench"), ("alarm_clock", "bench"), 0)
    assert task.names == {"alarm_clock": "alarm clock", "bench": "bench"} and task.accepted == {}
    assert only(load_tasks(tmp_path / "images", "test", replace(options, trim=2))).trim == 2
    plain = only(load_tasks(tmp_path / "images", "test", ClassOptions(classes=str(files["names"]))))
    assert plain.names["bench"] == "Bench"  # without a mapping names stay as they are


def test_objectnet_maps_onto_imagenet(tmp_path: Path) -> None:
    files = objectnet(tmp_path)
    options = ClassOptions(classes=str(files["names"]), mapping=files["counterparts"], onto="imagenet")
    task = only(load_tasks(tmp_path / "images", "test", options))
    assert [task.names[class_] for class_ in task.classes] == ["analog clock", "digital clock", "park bench"]
    assert task.accepted["alarm_clock"] == {"n02708093", "n03196217"}
    (tmp_path / "none.json").write_text('{"Alarm clock": "sundials"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"none\.json: 'sundials'"):
        read_mapping(tmp_path / "none.json", imagenet_classes())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"path": 5, "label": "cat"}', r"t\.jsonl: row 2: `path` is 5; it must be a non-empty string"),
        ('{"label": "cat"}', r"row 2: `path` is missing or null"),
        ('{"path": "a.jpg", "label": ["cat"]}', r"row 2: `label` is \['cat'\]; it must be an integer or a string"),
        ('{"path": "a.jpg", "label": ""}', r"row 2: `label` is empty"),
    ],
)
def test_a_row_of_other_types_is_named(tmp_path: Path, row: str, said: str) -> None:
    (tmp_path / "t.jsonl").write_text(f'{{"path": "a.jpg", "label": 3}}\n{row}', encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load_tasks(tmp_path / "t.jsonl", "val")


def test_a_table_of_paths_and_labels(tmp_path: Path) -> None:
    touch(tmp_path, "media/1.jpg", "media/deep/2.jpg")
    (tmp_path / "t.csv").write_text(
        "path,label,split\n1.jpg,cat,train\n2.jpg,dog,val\n3.jpg,cat,val\n", encoding="utf-8"
    )
    task = only(load_tasks(tmp_path / "t.csv", "val", ClassOptions(media=tmp_path / "media")))
    assert (task.keys, task.labels) == (("2.jpg", "3.jpg"), ("dog", "cat"))
    assert task.images == (tmp_path / "media/deep/2.jpg", tmp_path / "media/3.jpg")  # the latter is reported later
    with pytest.raises(DataError, match="no row has the split 'test'"):
        load_tasks(tmp_path / "t.csv", "test")
    (tmp_path / "t.csv").write_text("path,name\n1.jpg,cat\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no column 'label' or .* for labels"):
        load_tasks(tmp_path / "t.csv", "val")


def test_kinetics_clips_are_found_under_their_usual_names(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a b/AAA_000007_000017.mp4", "videos/BBB.mkv")
    rows = ["label,youtube_id,time_start,time_end,split", "a b,AAA,7,17,validate", "c,BBB,1,11,validate"]
    (tmp_path / "k.csv").write_text("\n".join([*rows, "c,CCC,0,10,validate", "c,DDD,0,10,test"]), encoding="utf-8")
    task = only(load_tasks(tmp_path / "k.csv", "val", ClassOptions(media=tmp_path / "videos")))
    videos = tmp_path / "videos"
    assert task.keys == ("AAA_000007_000017", "BBB_000001_000011", "CCC_000000_000010")
    assert task.images == (
        videos / "a b/AAA_000007_000017.mp4",
        Clip(videos / "BBB.mkv", 1.0, 11.0),
        videos / "CCC_000000_000010.mp4",
    )
    assert task.labels == ("a b", "c", "c")


def test_shards_are_read_from_a_directory_and_from_a_tar_alone(make_shard: Any, tmp_path: Path) -> None:
    shard = make_shard("set/test.tar", [("photos", "cup"), ("photos", "ant")])
    for path in (tmp_path / "set", shard):
        assert has_labels(path, "test")
        assert only(load_tasks(path, "test")).labels == ("cup", "ant")
    assert not has_labels(touch(tmp_path / "other", "val/ant/a.png"), "test")


def test_a_place_without_labelled_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no labelled images"):
        load_tasks(tmp_path / "none", "test")


def test_imagenets_synonyms_are_known_where_they_are_clear() -> None:
    classes = imagenet_classes()
    assert (len(classes.ids), len(set(classes.ids))) == (1000, 1000)
    assert classes.find("Vulpes macrotis") == classes.find("kit_fox") == classes.find("278") == "n02119789"
    assert classes.find("maillot, tank suit") != classes.find("maillot")
    for unclear in ("crane", "1000"):
        with pytest.raises(DataError, match="is not a class of ImageNet"):
            classes.find(unclear)


@pytest.mark.parametrize(
    ("name", "text", "ids", "names"),
    [
        ("a.txt", "red\ngreen\n", ("red", "green"), ("red", "green")),
        ("a.tsv", "r\tbright red\ng\tgreen\n", ("r", "g"), ("bright red", "green")),
        (
            "a.txt",
            "n01440764 tench, Tinca tinca\nn01443537 goldfish",
            ("n01440764", "n01443537"),
            ("tench", "goldfish"),
        ),
        ("a.json", '{"r": "red"}', ("r",), ("red",)),
        ("a.json", '{"0": ["n01440764", "tench"]}', ("n01440764",), ("tench",)),
        ("a.json", '["red", "green"]', ("0", "1"), ("red", "green")),
    ],
)
def test_class_files(tmp_path: Path, name: str, text: str, ids: tuple[str, ...], names: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_class_names(str(tmp_path / name)) == ClassNames(ids, names, str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "", "names no class"),
        ("a.txt", "red\nred", "names the class 'red' twice"),
        ("a.json", "3", "neither a list of names"),
        ("a.json", '{"r": ["n1", 5]}', "neither a list of names"),
        ("a.json", "{", "cannot be read as JSON"),
    ],
)
def test_bad_class_files_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name}.* {said}|{name} {said}"):
        read_class_names(str(tmp_path / name))


def test_a_mapping_of_other_types_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"Bench": ["a"]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"m\.json is not a JSON object"):
        read_mapping(tmp_path / "m.json")
