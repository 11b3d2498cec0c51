"""Names of the catalogue become plain nouns, classes, families and plurals."""

from __future__ import annotations

from perception_encoder.scenes.objects.names import class_of, family_of, label_of, plural_of


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
