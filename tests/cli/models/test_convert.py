"""`pe convert`: layouts there and back, as files that the other libraries read themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import safetensors.torch
import timm
import torch

from perception_encoder.models.checkpoints.weights import (
    create_model,
    load_model,
    published_state_dict,
)

TOWER = "PE-Spatial-T16-512"


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in") / f"{TOWER}.pt"
    torch.save(published_state_dict(create_model(TOWER)), path)
    return path


def assert_same(path: Path, reference: Path) -> None:
    ours, theirs = published_state_dict(load_model(path)), published_state_dict(load_model(reference))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_tower_to_timm_and_back(run_pe: Callable, tower: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "timm.safetensors", tmp_path / "back.pt"
    run = run_pe("convert", tower, there, "--to", "timm")
    assert run.status == 0
    assert run.stdout == f"{there}: {TOWER} in the timm layout, float32\n"
    assert run.stderr.startswith(f"warning: {there} holds weights only") and "config.json" in run.stderr
    timm.create_model("vit_pe_spatial_tiny_patch16_512", checkpoint_path=str(there))  # strict
    assert run_pe("convert", "--model", there, "--out", back).status == 0
    assert torch.load(back, weights_only=True).keys() == torch.load(tower, weights_only=True).keys()
    assert_same(back, tower)


def test_an_out_without_a_suffix_is_a_directory_with_the_configuration(run_pe: Callable, tmp_path: Path) -> None:
    torch.save(published_state_dict(create_model("PE-Core-T16-384")), tmp_path / "PE-Core-T16-384.pt")
    for layout, files in (
        ("open_clip", {"open_clip_config.json", "open_clip_model.safetensors"}),
        ("timm", {"config.json", "model.safetensors"}),
    ):
        run = run_pe("convert", tmp_path / "PE-Core-T16-384.pt", tmp_path / layout, "--to", layout)
        assert run.status == 0 and "holds weights only" not in run.stderr
        assert {path.name for path in (tmp_path / layout).iterdir()} == {*files, "README.md", "SHA256SUMS"}
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'open_clip'}")
    assert "Resize(size=(384, 384), interpolation=bilinear" in str(preprocess)
    assert timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).pretrained_cfg["crop_mode"] == "squash"


def test_the_text_tower_that_timm_has_not_is_mentioned(run_pe: Callable, checkpoint: Path, tmp_path: Path) -> None:
    run = run_pe("convert", checkpoint, tmp_path / "a.safetensors", "--to", "timm")
    assert run.status == 0
    assert "warning: timm has no text towers: " in run.stderr and "of PE-Core-N16-128 were omitted" in run.stderr
    vision = load_model(tmp_path / "a.safetensors").state_dict()
    whole = load_model(checkpoint).visual.state_dict()
    assert all(torch.equal(vision[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("given", "out", "options", "message"),
    [
        ("nothing.pt", "a.pt", [], "nothing.pt: no such file"),
        ("PE-Core-L14", "a.pt", [], "no model is called 'PE-Core-L14'; did you mean"),
        ("IN", "a.ckpt", [], "must end in one of .safetensors"),
        ("IN", "directory", [], "must end in one of .safetensors"),
        ("IN", "directory", ["--to", "open_clip"], "open_clip has only two-tower models"),
        ("IN", "a.pt", ["--to", "open_clip"], "open_clip has only two-tower models"),
        ("IN", "file/a.pt", [], "could not be written"),
    ],
)
def test_errors(
    run_pe: Callable, tower: Path, tmp_path: Path, given: str, out: str, options: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    run = run_pe("convert", tower if given == "IN" else given, tmp_path / out, *options)
    assert run.status == 2
    assert message in run.stderr and run.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_overwritten_unasked_and_the_input_never(run_pe: Callable, tower: Path, tmp_path: Path) -> None:
    source, out = tmp_path / f"{TOWER}.pt", tmp_path / "out.safetensors"
    source.write_bytes(tower.read_bytes())
    assert run_pe("convert", source, out).status == 0
    for arguments in ((source, out), (source, source), (source, source, "--overwrite")):
        run = run_pe("convert", *arguments, "--to", "timm")
        assert run.status == 2 and "exists; choose another name" in run.stderr
    assert source.read_bytes() == tower.read_bytes()
    assert run_pe("convert", source, out, "--overwrite", "--half").status == 0
    assert {tensor.dtype for tensor in safetensors.torch.load_file(out).values()} == {torch.float16}
    (tmp_path / "directory.pt").mkdir()
    assert "is a directory" in run_pe("convert", source, tmp_path / "directory.pt", "--overwrite").stderr
