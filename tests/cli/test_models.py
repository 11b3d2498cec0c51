"""`pe models`: the table; the default that `pe models use` chooses and PE_MODEL and -m override."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.defaults import DefaultModel, chosen_precision
from perception_encoder.models.registry import MODELS, list_models
from perception_encoder.runtime import cache, choice, requests
from tests.models.small import CORE
from tests.runtime.test_choice import missing

USED_BY = DefaultModel("model", "").used_by

pytestmark = pytest.mark.usefixtures("config")


@pytest.fixture
def directory(tmp_path: Path, draw: Callable[[int], Image.Image]) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        draw(number).save(tmp_path / "photos" / f"{number}.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize("way", ["use", "PE_MODEL"])
def test_a_chosen_model_is_that_of_every_command(
    run_pe, directory: Path, checkpoint: Path, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if way == "use":
        for flag in ([], ["-m"], ["--model"]):
            run = run_pe("models", "use", *flag, checkpoint)
            assert run.status == 0 and run.stdout == f"{checkpoint} is now the default for {USED_BY}\n"
    else:
        monkeypatch.setenv("PE_MODEL", str(checkpoint))
    assert run_pe("models").stderr == f"note: default for {USED_BY}: {checkpoint}\n"
    direct = json.loads(run_pe("search", "a cat", directory, "--model", checkpoint, "--json").stdout)
    default = run_pe("search", "a cat", directory, "--json")
    assert json.loads(default.stdout) == direct and "demo" not in default.stderr
    builtin = json.loads(run_pe("search", "a cat", directory, "--model", "builtin", "--json").stdout)
    assert builtin["queries"] != direct["queries"]
    assert run_pe("index", directory).status == 0
    assert pe.open_index(directory).source == str(checkpoint)
    assert run_pe("embed", directory, "-o", tmp_path / "vectors").status == 0
    assert run_pe("search", "a cat", tmp_path / "vectors", "--model", checkpoint).status == 0


def test_the_variable_overrides_the_choice(run_pe, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_MODEL", "builtin")
    run = run_pe("models", "use", checkpoint)
    assert run.status == 0 and "PE_MODEL overrides it: builtin" in run.stderr
    assert run_pe("models").stderr == f"note: default for {USED_BY}: builtin\n"


def test_a_spatial_model_is_not_that_of_searches(run_pe, tmp_path: Path, config: Path) -> None:
    write_checkpoint(create_model("PE-Spatial-T16-512"), tmp_path / "spatial.safetensors")
    assert run_pe("models", "use", tmp_path / "spatial.safetensors").status == 0
    assert json.loads(config.read_text()) == {"spatial": str(tmp_path / "spatial.safetensors")}


def test_a_damaged_choice_is_one_line(run_pe, config: Path, directory: Path) -> None:
    config.parent.mkdir(parents=True)
    for content in ("{", "[]", '{"model": 3}'):
        config.write_text(content)
        run = run_pe("search", "a cat", directory)
        assert run.status == 2 and f"{config} does not name a model; choose one with: pe models use NAME" in run.stderr
    assert run_pe("models", "use", "builtin").status == run_pe("search", "a cat", directory).status == 0


def test_a_choice_means_the_same_file_in_any_directory(
    run_pe, directory: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    monkeypatch.setenv("PE_MODEL", checkpoint.name)
    assert run_pe("index", directory).status == 0
    monkeypatch.delenv("PE_MODEL")
    monkeypatch.chdir(tmp_path)
    run = run_pe("search", "a cat", directory)
    assert run.status == 0, run.stderr
    assert pe.open_index(directory).source == str(checkpoint)


def test_an_index_keeps_its_model(run_pe, directory: Path, checkpoint: Path) -> None:
    assert run_pe("index", directory, "--model", "builtin").status == 0
    assert pe.use_model(checkpoint) == DefaultModel("model", str(checkpoint))
    assert run_pe("index", directory, "--rebuild").status == 0  # a rebuild keeps the model
    assert "builtin is a small demo model" in run_pe("search", "a cat", directory).stderr
    assert run_pe("index", directory, "--rebuild", "--model", checkpoint).status == 0
    assert "demo" not in run_pe("search", "a cat", directory).stderr


def test_only_what_can_be_loaded_is_chosen(run_pe, tmp_path: Path, config: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("PE-Core-L14-224", "did you mean PE-Core-B16-224, PE-Core-L14-336"),
        ("bultin-depth", "did you mean builtin-depth"),
        ("perception-lm-1b", "did you mean facebook/Perception-LM-1B"),
        ("facebook/PE-Detection", "has several detectors; download one, then: pe models use FILE"),
        ("PE-Core-L14-336", "could not be fetched"),
        (tmp_path / "empty", "a directory, not a checkpoint"),
        (tmp_path / "gone.pt", "no such file"),
        (f"hf:{tmp_path / 'gone'}", "there is no directory"),
        (f"st:{tmp_path / 'gone'}", "there is no directory"),
    ):
        run = run_pe("models", "use", name)
        assert run.status == 2 and message in run.stderr
    assert run_pe("models", "use").status == run_pe("models", "use", "builtin", "builtin").status == 2
    assert not config.exists()


def test_models_lists_all_with_size_licence_and_purpose(run_pe, terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    last = run_pe("models").stdout.splitlines()[-1]
    assert last == "default: builtin, a small demo; choose another: pe models use PE-Core-S16-384 (0.35 GB)"
    entries = {entry["name"]: entry for entry in json.loads(run_pe("models", "--json").stdout)}
    assert [name for name, entry in entries.items() if entry["default"]] == ["PE-Core-N16-128"]
    assert {*list_models(), "facebook/Perception-LM-1B", "builtin-lang"} <= entries.keys()
    assert all(entries[name]["download_bytes"] == entry.download_bytes for name, entry in MODELS.items())
    monkeypatch.undo()  # a pipe
    rows = {line.split("\t")[0]: line.split("\t")[1:4] for line in run_pe("models", "list").stdout.splitlines()}
    assert rows["model"] == ["purpose", "GB", "licence"]
    assert rows["builtin"] == ["demo: search", "0.00", "Apache-2.0"]
    assert rows["builtin-detector"][0] == "demo: detect"
    assert rows["PE-Core-S16-384"] == ["search, classify", "0.35", "Apache-2.0"]
    assert rows["facebook/Perception-LM-1B"] == ["ask, caption", "3.10", "noncommercial"]


def test_models_by_name(run_pe) -> None:
    (entry,) = json.loads(run_pe("models", "PE-Core-L-14-336", "--json").stdout)
    assert entry["name"] == "PE-Core-L14-336" and entry["vision"]["width"] == 1024
    assert "vit_pe_core_large_patch14_336.fb" in entry["aliases"]
    run = run_pe("models", "list", "builtin-lagn")
    assert run.status == 2 and "did you mean builtin-lang" in run.stderr


def test_a_precision_is_stored_with_the_default_model(
    run_pe, checkpoint: Path, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_pe("models", "use", "builtin", "--precision", "bfloat16")
    assert run.status == 0 and run.stdout == f"builtin in bfloat16 is now the default for {USED_BY}\n"
    assert json.loads(config.read_text()) == {"model": "builtin", "precision": "bfloat16"}
    assert chosen_precision("builtin") == chosen_precision("PE-Core-N16-128") == "bfloat16"
    assert chosen_precision("PE-Core-L14-336") is chosen_precision(str(checkpoint)) is None
    monkeypatch.setenv("PE_DTYPE", "float32")
    assert chosen_precision("builtin") is None
    monkeypatch.delenv("PE_DTYPE")
    write_checkpoint(create_model("PE-Spatial-T16-512"), tmp_path / "spatial.safetensors")
    run = run_pe("models", "use", tmp_path / "spatial.safetensors", "--precision", "bfloat16")
    assert run.status == 2 and "has no text tower; --precision is for models with one" in run.stderr
    assert run_pe("models", "use", tmp_path / "spatial.safetensors").status == 0
    assert chosen_precision("builtin") == "bfloat16"
    assert run_pe("models", "use", checkpoint).status == 0
    assert chosen_precision(str(checkpoint)) is None and "precision" not in json.loads(config.read_text())


def test_int8_without_openvino_is_not_chosen(run_pe, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PE_RUNTIME", raising=False)
    monkeypatch.setattr(choice, "check_openvino", missing)
    run = run_pe("models", "use", "builtin", "--precision", "int8")
    assert run.status == 2 and "openvino is not installed" in run.stderr and "perception-encoder[fast]" in run.stderr
    assert not config.exists()


def test_compiled_models_are_listed_and_deleted(run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("PE_MEASURE", "1")
    assert run_pe("models", "compiled").stderr == "note: no model is compiled yet\n"
    assert run_pe("models", "compiled", "--json").stdout == "[]\n"

    def write(directory: Path) -> dict[str, object]:
        (directory / cache.MODEL).write_text("<net/>")
        (directory / cache.WEIGHTS).write_bytes(bytes(2_000_000))
        return {}

    common = {"weights": "0123", "config": CORE, "precision": "bfloat16"}
    cache.store(cache.Key(model="builtin", tower="image", **common), write)
    cache.store(cache.Key(model="builtin", tower="text", **common), write)
    cache.store(cache.Key(model="other", tower="image", layer=7, **common), write)
    rows = json.loads(run_pe("models", "compiled", "--json").stdout)
    assert [(row["model"], row["tower"], row["layer"]) for row in rows] == [
        ("other", "image", 7),
        ("builtin", "text", None),
        ("builtin", "image", None),
    ]
    assert all(row["usable"] and row["bytes"] > 2e6 and row["last_used"].endswith("+00:00") for row in rows)
    head, first, *rest = run_pe("models", "compiled").stdout.splitlines()
    assert head.split()[:8] == ["model", "tower", "precision", "layer", "MB", "last", "used", "usable"]
    assert head.split()[8:] == ["request", "images/s"]
    assert first.split()[:5] == ["other", "image", "bfloat16", "7", "2"] and len(rest) == 2
    assert first.split("\t")[-2:] == ["", ""]
    for entry in cache.entries():
        if entry.model == "other":
            image = np.ones((1, 3, 8, 8))
            requests.fastest_request(entry.directory, "other", lambda: 1, lambda request: np.sqrt, image)
    first = run_pe("models", "compiled").stdout.splitlines()[1].split()
    assert "×" in first and float(first[-1]) > 0
    assert run_pe("models", "compiled", "--measure", "other").status == 0
    assert run_pe("models", "compiled").stdout.splitlines()[1].split("\t")[-2:] == ["", ""]
    assert run_pe("models", "compiled", "--measure", "all", "--delete", "all").status == 2
    run = run_pe("models", "compiled", "--delete", "gone")
    assert run.status == 2 and "no compiled model is called 'gone'; there are: builtin, other" in run.stderr
    assert run_pe("models", "compiled", "--delete", "builtin").stdout == "deleted: 2 towers, 4 MB\n"
    (deleted,) = json.loads(run_pe("models", "compiled", "--delete", "all", "--json").stdout)
    assert deleted["model"] == "other" and cache.entries() == []
