"""Names of models: the catalogue's names as plain nouns, the class of each, and classes that are easily confused.

An osaka chair is of the class chair. Two classes of one family, such as chairs and stools, are never in one scene, so
that a count has one answer.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

_TABLES: dict[str, Any] = json.loads(files(__package__).joinpath("names.json").read_text(encoding="utf-8"))

EXCLUDED = re.compile(f"^({'|'.join(_TABLES['excluded'])})", re.IGNORECASE)
"""Names of objects that hang, lie flat or are several at once, and names that do not say what the object is."""
RENAMED: dict[str, str] = _TABLES["renamed"]
"""Better words for the catalogue's."""
CLASSES: dict[str, str] = _TABLES["classes"]
"""Classes of labels whose last word does not say it."""
HEADS: list[str] = _TABLES["heads"]
"""Classes of all labels that end in this word, unless in NO_HEADS."""
NO_HEADS: list[str] = _TABLES["no_heads"]
FAMILY_OF: dict[str, str] = {name: family[0] for family in _TABLES["families"] for name in family}
"""Classes that are easily confused; a family has the name of its first class."""
SUPPORTS: list[str] = _TABLES["supports"]
"""Classes of objects that others may stand on, if their top is level."""
ROUND: list[str] = _TABLES["round"]
"""Classes of objects that roll."""
NEVER_TINTED: list[str] = _TABLES["never_tinted"]
"""Categories of objects that have typical colours: food, people, plants, tools."""
IRREGULAR: dict[str, str] = _TABLES["irregular_plurals"]


def label_of(name: str) -> str:
    """Turn a catalogue's name into a noun: lower case, without numbers and makers."""
    plain = re.sub(r"\b\d[\d:°]*\b|\b[ivx]+$", "", name.lower())
    plain = " ".join(plain.split())
    return RENAMED.get(plain, plain)


def class_of(name: str) -> str:
    """Return the class of an object with this name in a catalogue."""
    label = label_of(name)
    if label in CLASSES or label in NO_HEADS:
        return CLASSES.get(label, label)
    last = label.rsplit(" ", 1)[-1]
    return last if last in HEADS and " of " not in label else label


def family_of(class_name: str) -> str:
    """Return the first class of this class's family, or the class itself if it has no family."""
    return FAMILY_OF.get(class_name, class_name)


def plural_of(noun: str) -> str:
    """Return the plural of a label."""
    head, of, rest = noun.partition(" of ")
    first, space, last = head.rpartition(" ")
    if last.endswith("man"):
        plural = f"{last[:-3]}men"
    elif last in IRREGULAR:
        plural = IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        plural = f"{last}es"
    elif re.search(r"[^aeiou]y$", last):
        plural = f"{last[:-1]}ies"
    else:
        plural = f"{last}s"
    return f"{first}{space}{plural}{of}{rest}"
