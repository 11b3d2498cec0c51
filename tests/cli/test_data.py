"""`pe data`: shards, and masks with the run that uses their cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Run
from tests.data.tars import image_bytes
from tests.spatial_alignment.test_mask_teachers import tiny_sam

SMALL = ("--set", "masks=sam", "--set", "copies=2", "--set", "image_size=64")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(6):
        pixels = np.kron(generator.integers(0, 255, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    tiny_sam().save_pretrained(tmp_path / "sam")
    return tmp_path / "photos"


def test_masks_are_cached_and_used(run_pe, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "m"
    run = run_pe("data", "masks", "--data", photos, "-o", cache, *SMALL)
    assert run.status == 0, run.stderr
    assert run.stdout.splitlines() == [f"12 augmented images: {cache}"]
    train = ("train", "spatial_builtin", "--debug", "--data", photos, "--set", f"masks={cache}", "--set", "copies=2")
    run = run_pe(*train, "-o", tmp_path / "run")
    assert run.status == 0, run.stderr
    assert "masks" in (tmp_path / "run" / "metrics.jsonl").read_text()
    run = run_pe(*train, "--set", "seed=1", "-o", tmp_path / "other")
    assert run.status == 2 and "was made with seed 0, not 1" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "m", "--recipe", "finetune"), "finetune is not a recipe of spatial alignment"),
        (("-o", "m", "--set", "masks=sam"), "set copies to the number of augmentations"),
        (("-o", "m", "--set", "copies=1"), "masks to a teacher"),
    ],
)
def test_bad_settings_are_clear_errors(
    run_pe, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_pe("data", "masks", "--data", photos, *arguments)
    assert run.status == 2 and message in run.stderr.splitlines()[-1]


def test_shards_of_a_directory(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "in" / "cup").mkdir(parents=True)
    (tmp_path / "in" / "cup" / "1.png").write_bytes(image_bytes(1))
    run = run_pe("data", "shards", tmp_path / "in", "-o", tmp_path / "out", "--size", "5")
    assert run.status == 0 and "1 pairs in 1 shards" in run.stdout
    (tmp_path / "in" / "cup" / "2.png").write_bytes(b"?")
    run = run_pe("data", "shards", tmp_path / "in", "-o", tmp_path / "more")
    assert run.status == 1 and "2.png" in run.stderr and "1 of 2 inputs skipped" in run.stderr
    assert run_pe("data", "shards", tmp_path / "in", "-o", tmp_path / "out").status == 2
    assert "pe data shards photos/ -o shards/" in run_pe("data", "shards", "--help").stdout
