"""An index may be a stranger's: it never chooses a model outside this package, which its reader has to name once."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import perception_encoder as pe
from perception_encoder.errors import SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import write_checkpoint
from tests.search.indexes import assert_same_ranking, forge

REFUSED = "is not a model of this package and may run code; if you trust it, name it yourself, once, with --model"
Become = Callable[[str], None]


@pytest.fixture
def become(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Become:
    """`become(name)`: a user with settings of their own."""
    return lambda name: monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / name))


@pytest.fixture
def planted(tmp_path: Path, photos: Path, encoder: Encoder, become: Become) -> Path:
    """A stranger's index of `photos` that names a model whose code writes the returned file."""
    model, proof = tmp_path / "model", tmp_path / "proof"
    model.mkdir()
    (model / "planted.py").write_text(f"open({str(proof)!r}, 'w')\nclass Model: pass\n")
    (model / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "planted.Model"}]))
    become("stranger")
    theirs = copy.copy(encoder)
    theirs.source = f"st:{model}"
    pe.open_index(photos, theirs).update()
    become("user")
    return proof


@pytest.mark.parametrize(
    "words",
    [
        ("search", "a cat", "PHOTOS"),
        ("search", "a cat", "PHOTOS/2024's"),
        ("index", "PHOTOS"),
        ("index", "PHOTOS", "--rebuild"),
        ("serve", "PHOTOS"),
        ("serve", "PHOTOS", "--api"),
    ],
)
def test_a_stranger_s_index_runs_no_code(run_pe, photos: Path, planted: Path, words: tuple[str, ...]) -> None:
    run = run_pe(*(word.replace("PHOTOS", str(photos)) for word in words), *(["--port", "0"] * (words[0] == "serve")))
    assert run.status == 2 and REFUSED in " ".join(run.stderr.split())
    assert not planted.exists()


def test_what_needs_no_model_needs_no_trust(run_pe, photos: Path, planted: Path, tmp_path: Path) -> None:
    assert run_pe("near-duplicates", photos).status == 0
    vectors = tmp_path / "vectors.parquet"
    assert pe.open_index(photos).export_vectors(vectors) == 20
    run = run_pe("search", "a cat", vectors)  # by the user's model, whatever the file names
    assert run.status == 2 and "was not made with builtin; choose PE-Core-N16-128" in run.stderr
    assert not planted.exists()


def test_a_model_is_named_once_for_an_index(
    photos: Path, checkpoint: Path, become: Become, tmp_path: Path, draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By building the index or by naming the model; for its directory and weights only, and not in the index."""
    elsewhere = tmp_path / "the user's copy.safetensors"
    shutil.copy(checkpoint, elsewhere)
    pe.open_index(photos, checkpoint).update()
    become("another user")
    with pytest.raises(SearchIndexError, match=r"names the model .*nano\.safetensors"):
        pe.open_index(photos).search("a cat")
    monkeypatch.chdir(tmp_path)
    expected = pe.open_index(photos, elsewhere.name, precision="float32").search("a cat")
    monkeypatch.chdir("/")
    checkpoint.rename(moved := checkpoint.with_name("moved"))  # the user's own model is loaded, not the index's
    try:
        assert_same_ranking(pe.open_index(photos, precision="float32").search("a cat"), expected)
        draw(77).save(photos / "new.jpg")
        assert pe.open_index(photos).update().added == 1
    finally:
        moved.rename(checkpoint)
    shutil.copytree(photos, tmp_path / "copied")
    with pytest.raises(SearchIndexError, match="names the model"):
        pe.open_index(tmp_path / "copied").search("a cat")
    become("stranger")
    other = pe.create_model("PE-Core-N16-128", generator=torch.Generator().manual_seed(7))
    write_checkpoint(other, checkpoint.with_name("other.safetensors"))
    pe.open_index(photos, checkpoint.with_name("other.safetensors")).update(rebuild=True)
    become("another user")
    with pytest.raises(SearchIndexError, match=r"names the model .*other\.safetensors"):
        pe.open_index(photos).search("a cat")


@pytest.mark.security
@pytest.mark.parametrize("path", ["../../x.jpg", ".env"])
@pytest.mark.parametrize("words", [("search", "a cat"), ("near-duplicates",), ("near-duplicates", "--all-but-one")])
def test_a_stranger_s_row_prints_and_links_no_other_file(
    run_pe, photos: Path, checkpoint: Path, path: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    pe.open_index(photos, checkpoint).update()
    forge(photos, "00.jpg", path=path)
    for options in ((), ("-0",), ("--json",), ("--html", str(tmp_path / "sheet.html"))):
        run = run_pe(*words, photos, *options, "--model", checkpoint, "--top", "30")
        error = " ".join(run.stderr.split())
        assert run.status == 2 and f"has '{path}', no image or video in the directory" in error
        assert path not in run.stdout and not (tmp_path / "sheet.html").exists()
