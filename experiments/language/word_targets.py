"""What each patch of an image shows, as a word: an object of a scene's mask, a document's word or digit, or a label."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from perception_encoder.data.pairs import object_name
from perception_encoder.formats.shards import read_shard
from perception_encoder.formats.tables import read_json_lines
from synthetic.scenes.samples.reading import read_scene_tars

IGNORED = -100
BACKGROUND = 0
"""The number of the word for patches without an object."""
LEAST_USES = 20
"""A document's word that occurs less often is not learned."""
LEAST_SHARE, MOST_SHARE = 0.12, 0.35
"""A patch shows an object that covers more than the second share of it; below the first it shows the background."""
LEAST_COVERED = 0.25
"""Of a patch, by a printed word or digit."""
FINE = 8
"""Samples of a mask along a patch's side."""


@dataclass(frozen=True)
class Labelled:
    """An image, and the numbers of the words that its patches show."""

    key: str
    image: bytes | Path
    patches: Int[np.ndarray, " P"]
    colours: Int[np.ndarray, " P"]
    """The position of each patch's colour among the colours."""
    boxes: Int[np.ndarray, "P 4"]
    """Left, top, right and bottom of each patch's object, in whole hundredths of the image."""
    label: int = IGNORED
    symmetric: bool = True
    """Whether its mirror image shows the same words."""

    def mirrored(self) -> Labelled:
        """Return the targets of the mirror image."""
        side = round(len(self.patches) ** 0.5)
        columns = np.arange(side * side).reshape(side, side)[:, ::-1].ravel()
        left, top, right, bottom = self.boxes[columns].T
        boxes = np.stack([99 - right, top, 99 - left, bottom], 1)
        boxes[left == IGNORED] = IGNORED
        return replace(self, patches=self.patches[columns], colours=self.colours[columns], boxes=boxes)


class WordNumbers:
    """The words that are learned, each with a number."""

    def __init__(self, kinds: Sequence[str], colours: Sequence[str], others: Sequence[str]) -> None:
        self.words = list(dict.fromkeys(["_", *sorted(kinds), *sorted(colours), *sorted(others)]))
        self.numbers = {word: number for number, word in enumerate(self.words)}
        self.colour_words = sorted(colours)
        self.colours = [self.numbers[word] for word in self.colour_words]

    @classmethod
    def of(cls, scenes: Sequence[Path], documents: Sequence[Path], labelled: Sequence[Path]) -> WordNumbers:
        """Collect the words of scenes' directories of tars, of documents' `words.jsonl`, and of labelled shards."""
        kinds, colours, others = set[str](), set[str](), set[str]()
        for metadata, *_ in _scene_samples(scenes):
            kinds |= {item["kind"] for item in metadata["objects"]}
            colours |= {value["colour"] for value in metadata["objects"] if value["colour"]}
        counts = Counter(
            word for fields in _documents(documents) for field in fields["words"] for word in _names(field["text"])
        )
        others |= {word for word, count in counts.items() if count >= LEAST_USES}
        for shard in labelled:
            others |= {object_name(sample.metadata) for sample in read_shard(shard)}
        return cls(sorted(kinds), sorted(colours), sorted(others))

    def scenes(self, directories: Sequence[Path], grid: int) -> list[Labelled]:
        """Return scenes with what their masks say."""
        rows = []
        for metadata, key, image, mask in _scene_samples(directories):
            objects = {value["id"]: value for value in metadata["objects"]}
            ids = patch_ids(mask, grid)
            patches, colours, boxes = _unknown(grid)
            patches[ids == 0] = BACKGROUND
            scale = 100 / np.array([metadata["width"], metadata["height"]] * 2)
            for number, item in objects.items():
                patches[ids == number] = self.numbers.get(item["kind"], IGNORED)
                boxes[ids == number] = np.clip(item["box"] * scale, 0, 99)
                if item["colour"] in self.colour_words:
                    colours[ids == number] = self.colour_words.index(item["colour"])
            rows.append(Labelled(key, image, patches, colours, boxes))
        return rows

    def documents(self, files: Sequence[Path], grid: int) -> list[Labelled]:
        """Return documents with their words' patches: the word, or of a number its digits and signs."""
        rows = []
        for file in files:
            for fields in _documents([file]):
                patches = np.full((grid, grid), BACKGROUND, np.int16)
                _, none, boxes = _unknown(grid)
                overlap = np.zeros((grid, grid))
                size = fields["width"] / grid, fields["height"] / grid
                for field in fields["words"]:
                    for text, box in _parts(field["text"], field["box"]):
                        _paint(patches, overlap, self.numbers.get(text, IGNORED), box, size)
                path = file.parent / fields["image"]
                rows.append(Labelled(fields["id"], path, patches.ravel(), none, boxes, symmetric=False))
        return rows

    def labelled(self, shards: Sequence[Path], grid: int) -> list[Labelled]:
        """Return images that have one label as a whole."""
        return [
            Labelled(sample.key, sample.image, *_unknown(grid), self.numbers[object_name(sample.metadata)])
            for shard in shards
            for sample in read_shard(shard)
        ]


def _unknown(grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words, colours and boxes of patches whose content is unknown."""
    count = grid * grid
    return np.full(count, IGNORED, np.int16), np.full(count, IGNORED, np.int16), np.full((count, 4), IGNORED, np.int16)


def patch_ids(mask: Int[np.ndarray, "H W"], grid: int) -> Int[np.ndarray, " P"]:
    """Return the object that each patch shows, 0 for none, and −1 for a patch at an object's edge."""
    side = grid * FINE
    fine = np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
    cells = fine.reshape(grid, FINE, grid, FINE).transpose(0, 2, 1, 3).reshape(grid * grid, FINE * FINE)
    share = (cells > 0).mean(1)
    ids = np.full(len(cells), -1)
    ids[share < LEAST_SHARE] = 0
    for row in np.flatnonzero(share > MOST_SHARE):
        ids[row] = np.bincount(cells[row][cells[row] > 0]).argmax()
    return ids


def _scene_samples(directories: Sequence[Path]) -> Iterator[tuple[dict[str, Any], str, bytes, np.ndarray]]:
    for directory in directories:
        for scene in read_scene_tars(sorted(directory.glob("*.tar")), masks=True):
            yield scene.metadata, scene.key, scene.image, np.asarray(Image.open(io.BytesIO(scene.mask)))


def _documents(files: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for file in files:
        yield from (fields for _, fields in read_json_lines(file))


def _names(text: str) -> list[str]:
    """The words that a printed word stands for: itself in lower case, or each letter of a number."""
    return list(text) if any(letter.isdigit() for letter in text) else [text.strip(".,:").lower()]


def _parts(text: str, box: Sequence[float]) -> list[tuple[str, Sequence[float]]]:
    """A printed word's names with their boxes; a number's letters are about equally wide."""
    names = _names(text)
    left, top, right, bottom = box
    width = (right - left) / len(names)
    return [(name, (left + at * width, top, left + (at + 1) * width, bottom)) for at, name in enumerate(names)]


def _paint(
    patches: np.ndarray, overlap: np.ndarray, number: int, box: Sequence[float], size: tuple[float, float]
) -> None:
    """Write a word into the patches that it covers more than any other does; those that it only touches are ignored."""
    rows, columns = (np.arange(len(patches)) for _ in range(2))
    left, top, right, bottom = box
    across = np.clip(np.minimum(right, (columns + 1) * size[0]) - np.maximum(left, columns * size[0]), 0, None)
    down = np.clip(np.minimum(bottom, (rows + 1) * size[1]) - np.maximum(top, rows * size[1]), 0, None)
    area = down[:, None] * across[None] / (size[0] * size[1])
    better = area > overlap
    patches[better] = np.where(area[better] >= LEAST_COVERED, number, IGNORED)
    overlap[better] = area[better]
