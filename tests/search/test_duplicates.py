"""What `--all-but-one` lists can be deleted: every photograph is still there afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.inference.encoder import Encoder


@pytest.fixture
def photo(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """A grey image; the model's vectors show how bright an image is, as an angle."""

    def embed(self: Encoder, pixels: list[np.ndarray], feature: object) -> np.ndarray:
        angles = np.array([image.mean() / 255 for image in pixels])
        vectors = np.zeros((len(pixels), self.dimension), np.float32)
        vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
        return vectors

    monkeypatch.setattr(Encoder, "embed_pixels", embed)
    return Image.new("RGB", (64, 64), (80, 80, 80))


def spare(directory: Path, encoder: Encoder, min_score: float = 0.97) -> set[str]:
    index = pe.open_index(directory, encoder)
    index.update()
    groups = index.near_duplicates(min_score=min_score, all_but_one=True)
    return {hit.path.removeprefix(f"{directory}/") for group in groups for hit in group}


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({"a.png": os.symlink}, set()),
        ({"z.png": os.symlink}, set()),
        ({"a.png": os.link, "z.png": os.link}, set()),
        ({"a.png": os.symlink, "copy.png": None}, {"copy.png"}),
    ],
)
def test_other_names_of_the_kept_file_are_not_listed(
    photo: Image.Image, encoder: Encoder, tmp_path: Path, links: dict, expected: set[str]
) -> None:
    photo.save(tmp_path / "real.png")
    for name, link in links.items():
        photo.save(tmp_path / name, compress_level=9) if link is None else link(tmp_path / "real.png", tmp_path / name)
    assert spare(tmp_path, encoder) == expected


def test_only_images_similar_to_the_kept_one_are_listed(photo: Image.Image, encoder: Encoder, tmp_path: Path) -> None:
    photo.resize((90, 90)).save(tmp_path / "0.png")
    for step in range(1, 5):  # neighbours have a cosine of cos(0.2) = 0.980, those two apart 0.921
        Image.new("RGB", (64, 64), (80 + 51 * step,) * 3 if step < 4 else (29,) * 3).save(tmp_path / f"{step}.png")
    index = pe.open_index(tmp_path, encoder)
    index.update()
    (group,) = index.near_duplicates(min_score=0.97)
    assert len(group) == 5
    ((one, other),) = index.near_duplicates(min_score=0.97, all_but_one=True)
    assert {one.file, other.file} == {tmp_path / "1.png", tmp_path / "4.png"}
    assert one.score == pytest.approx(np.cos(0.2), abs=1e-4) and other.score == pytest.approx(np.cos(0.2), abs=1e-4)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"no longer the image")])
def test_a_file_that_is_gone_or_changed_is_not_what_is_kept(
    photo: Image.Image, encoder: Encoder, tmp_path: Path, change
) -> None:
    photo.resize((90, 90)).save(large := tmp_path / "large.png")
    photo.save(tmp_path / "small.png")
    index = pe.open_index(tmp_path, encoder)
    index.update()
    assert len(index.near_duplicates(all_but_one=True)) == 1
    change(large)
    assert index.near_duplicates(all_but_one=True) == []
