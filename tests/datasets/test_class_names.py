"""Names of classes: ImageNet's, class files, mappings, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.datasets.classified import ClassNames, imagenet_classes, read_class_names, read_mapping
from perception_encoder.errors import DataError


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


@pytest.mark.parametrize("given", ["null", '["a"]', '{"a": 1}'])
def test_a_mapping_of_other_types_is_named(tmp_path: Path, given: str) -> None:
    (tmp_path / "m.json").write_text(f'{{"Bench": {given}}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"m\.json is not a JSON object of classes by label"):
        read_mapping(tmp_path / "m.json")
