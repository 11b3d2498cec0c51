"""What is true of a rendered video, and how it is put into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from perception_encoder.data.captions import with_article
from synthetic.scenes.language.phrases import NUMBERS
from synthetic.scenes.objects.names import plural_of


@dataclass(frozen=True)
class SceneTruth:
    """What is true of a rendered video."""

    objects: tuple[tuple[str, str], ...]
    """Class and colour of each; an object of many colours has none."""
    events: tuple[tuple[str, str], ...]
    """Class and action, in order; actions are those of `VERBS`."""
    orbits: bool
    """Whether the camera moves."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> SceneTruth:
        """Read the truth from the metadata of a rendered video."""
        classes = {each["id"]: each["kind"] for each in metadata["objects"]}
        moves = [event for event in metadata["events"] if event["object"] is not None]
        return cls(
            tuple((each["kind"], each["colour"]) for each in metadata["objects"]),
            tuple((classes[event["object"]], event["action"]) for event in moves),
            len(moves) < len(metadata["events"]),
        )

    @cached_property
    def colours(self) -> dict[str, frozenset[str]]:
        """The colours of the objects of each class that is there."""
        names = dict.fromkeys(name for name, _ in self.objects)
        return {name: frozenset(colour for other, colour in self.objects if other == name) - {""} for name in names}

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of objects of each class that is there."""
        return {name: sum(other == name for other, _ in self.objects) for name in self.colours}

    def colour(self, name: str) -> str:
        """Return the colour of all objects of a class, or "" if they differ or have none."""
        colours = {colour for other, colour in self.objects if other == name}
        return next(iter(colours)) if len(colours) == 1 else ""

    def phrase(self, name: str) -> str:
        """Return a class with its colour, if its objects have one."""
        return f"{self.colour(name)} {name}".strip()

    def counted(self, name: str) -> str:
        """Return all objects of a class as a phrase: "a red chair", "two chairs"."""
        count = self.counts[name]
        if count == 1:
            return with_article(self.phrase(name))
        return " ".join(filter(None, (NUMBERS[count], self.colour(name), plural_of(name))))
