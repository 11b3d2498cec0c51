"""Names of the catalogue become plain nouns, classes, families and plurals."""

from __future__ import annotations

import json
from importlib.resources import files

from synthetic.scenes.objects.names import EXCLUDED, class_of, family_of, label_of, plural_of


def test_labels_are_plain_nouns() -> None:
    names = ("Apple iMac 2004", "Female", "Oak chair", "TV 16:9", "Sofa 3 seats", "Concept Sedan 02 Sport", "Shelves")
    assert [label_of(name) for name in names] == ["computer", "woman", "oak chair", "tv", "sofa", "car", "shelf"]


def test_the_class_is_what_an_object_is_counted_as() -> None:
    names = ("Oak chair", "Bulldog", "Pool table", "Sheet of glass")
    assert [class_of(name) for name in names] == ["chair", "dog", "pool table", "sheet of glass"]


def test_plurals() -> None:
    plurals = [plural_of(noun) for noun in ("chair", "box", "knife", "pair of slippers", "cherry", "snowman", "toy")]
    assert plurals == ["chairs", "boxes", "knives", "pairs of slippers", "cherries", "snowmen", "toys"]


def test_families_have_the_name_of_their_first_class() -> None:
    assert family_of("armchair") == family_of("stool") == "chair" and family_of("duck") == "duck"


def test_a_class_is_in_one_family_and_a_name_has_one_rule() -> None:
    tables = json.loads(files("synthetic.scenes.objects").joinpath("names.json").read_text(encoding="utf-8"))
    members = [name for family in tables["families"] for name in family]
    assert len(members) == len(set(members))
    assert not set(tables["heads"]) & set(tables["no_heads"])
    assert all(label_of(name) == label for name, label in tables["renamed"].items())
    assert label_of("captain's bed") == "bed" and class_of("coffee mug") == "mug" and plural_of("shelf") == "shelves"
    assert all(EXCLUDED.search(name) for name in ("Sink", "Shower 2", "Frame 3")) and not EXCLUDED.search(
        "Sinking ship"
    )
