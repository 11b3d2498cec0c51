"""Links that somebody planted in a directory: what is written there changes nothing that they lead to."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

import perception_encoder as pe
from perception_encoder.errors import OutputError
from perception_encoder.files import write_bytes
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.samples import write_samples
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.search_page.contact_sheet import write_contact_sheet
from perception_encoder.training.checkpoint import RunState, save_run
from perception_encoder.video_dataset.annotation.project import Database
from tests.damage import plant_journal

pytestmark = [pytest.mark.security, pytest.mark.skipif(os.name == "nt", reason="POSIX links")]


def embed(out: Path, directory: Path) -> None:
    Image.new("RGB", (8, 8)).save(directory / "a.png")
    encoder = Encoder.of(create_model("PE-Core-N16-128"), "cpu", torch.float32)
    pe.embed(directory / "a.png", out, model=encoder, overwrite=True)


def save_checkpoints(directory: Path) -> None:
    model = torch.nn.Linear(2, 2)
    for step in (1, 2, 3):
        save_run(directory, model, torch.optim.SGD(model.parameters()), RunState(step=step, fingerprint="a"), keep=1)


WRITERS: dict[str, Callable[[Path], object]] = {
    "out.parquet": lambda directory: embed(directory / "out.parquet", directory),
    "page.html": lambda directory: write_contact_sheet(directory / "page.html", "", "", []),
    "a.png": lambda directory: write_bytes(directory / "a.png", b"png"),
    "project.sqlite": lambda directory: Database(directory / "project.sqlite").close(),
    "project.sqlite-wal": lambda directory: Database(directory / "project.sqlite").close(),
    "motorcycle_right.png": write_samples,
}
DIRECTORIES: dict[str, Callable[[Path], object]] = {
    "out.parquet.parts": WRITERS["out.parquet"],
    "checkpoints": save_checkpoints,
}


@pytest.mark.parametrize("content", ["", "dear diary"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_behind_a_link_stays_as_it_is(name: str, content: str, tmp_path: Path) -> None:
    victim, directory = tmp_path / "diary.txt", tmp_path / "foreign"
    victim.write_text(content)
    directory.mkdir()
    (directory / name).symlink_to(victim)
    with suppress(OutputError):
        WRITERS[name](directory)
    assert victim.read_text() == content
    if (directory / name).is_symlink():
        with pytest.raises(OutputError, match=f"{name} is a link, which is not followed; remove it"):
            WRITERS[name](directory)
    (directory / name).unlink(missing_ok=True)
    WRITERS[name](directory)


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_directory_behind_a_link_stays_as_it_is(name: str, tmp_path: Path) -> None:
    victim, directory = tmp_path / "letters", tmp_path / "foreign"
    names = {"a.parquet", "b.tmp", "step-00000000"}
    victim.mkdir()
    for letter in names:
        (victim / letter).write_text("dear")
    directory.mkdir()
    (directory / name).symlink_to(victim)
    with pytest.raises(OutputError, match=f"{name} is a link, which is not followed; remove it"):
        DIRECTORIES[name](directory)
    assert {*os.listdir(victim)} == names


def test_a_journal_that_names_another_file_is_refused(tmp_path: Path) -> None:
    """SQLite would remove the file."""
    (victim := tmp_path / "diary.txt").write_text("dear diary")
    Database(tmp_path / "project.sqlite").close()
    plant_journal(tmp_path / "project.sqlite", victim)
    with pytest.raises(OutputError, match="names another file; remove it"):
        Database(tmp_path / "project.sqlite")
    assert victim.read_text() == "dear diary"
