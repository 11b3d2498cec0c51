"""The default model: chosen by `pe models use`, overridden by PE_MODEL and by -m, called a demo if not chosen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.cli.default_model import USED_BY
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.registry import MODELS, find_model

pytestmark = pytest.mark.usefixtures("config")

LINE = (
    "warning: builtin is a small demo model, and its results are often wrong; "
    "choose a published model: pe models use PE-Core-S16-384 (0.3 GB)\n"
)


@pytest.fixture
def directory(tmp_path: Path, draw: Callable[[int], Image.Image]) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        draw(number).save(tmp_path / "photos" / f"{number}.jpg")
    return tmp_path / "photos"


def test_results_of_the_demo_say_so(run_pe, directory: Path, tmp_path: Path, terminal) -> None:
    labels, page = ("--labels", "cat,dog"), tmp_path / "page.html"
    for command in (("search", "a cat", directory), ("classify", directory, *labels), ("index", directory)):
        assert LINE in run_pe(*command).stderr
        run = run_pe(*command, "--json")
        assert json.loads(run.stdout) and LINE in run.stderr
        assert LINE in run_pe(*command, "--model", "builtin").stderr  # even if it was chosen
    assert LINE in run_pe("search", "a cat", directory, "--html", page).stderr  # by its index
    on_page = LINE.removeprefix("warning: ").rstrip()
    assert on_page in page.read_text(encoding="utf-8")
    assert LINE in run_pe("search", "--near-duplicates", directory, "--html", page).stderr
    assert on_page in page.read_text(encoding="utf-8")
    assert run_pe("classify", directory, *labels, "--html", page).status == 0
    assert on_page in page.read_text(encoding="utf-8")
    reports = json.loads(run_pe("index", directory, "--json").stdout)["folders"]
    assert [report["model"] for report in reports.values()] == ["builtin"]
    assert json.loads(run_pe("search", "--near-duplicates", directory, "--json").stdout)["model"] == "builtin"


def test_a_model_of_one_s_own_is_no_demo(run_pe, directory: Path, checkpoint: Path) -> None:
    for command in (("search", "a cat", directory), ("index", directory)):
        run = run_pe(*command, "--model", checkpoint)
        assert run.status == 0 and "demo" not in run.stdout + run.stderr
    assert "demo" not in run_pe("search", "a cat", directory).stderr


@pytest.mark.parametrize("way", ["use", "PE_MODEL"])
def test_a_chosen_model_is_that_of_every_command(
    run_pe, directory: Path, checkpoint: Path, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if way == "use":
        for flag in ([], ["-m"], ["--model"]):
            run = run_pe("models", "use", *flag, checkpoint)
            assert run.status == 0 and run.stdout == f"default of {USED_BY['model']}: {checkpoint}\n"
    else:
        monkeypatch.setenv("PE_MODEL", str(checkpoint))
    assert run_pe("models").stderr == f"note: default of {USED_BY['model']}: {checkpoint}\n"
    direct = json.loads(run_pe("search", "a cat", directory, "--model", checkpoint, "--json").stdout)
    default = run_pe("search", "a cat", directory, "--json")
    assert json.loads(default.stdout) == direct and "demo" not in default.stderr
    builtin = json.loads(run_pe("search", "a cat", directory, "--model", "builtin", "--json").stdout)
    assert builtin["queries"] != direct["queries"]
    assert run_pe("index", directory).status == 0
    settings = json.loads((directory / ".pe-index" / "settings.json").read_text())
    assert settings["source"] == str(checkpoint)
    assert run_pe("embed", directory, "-o", tmp_path / "vectors").status == 0
    assert run_pe("search", "a cat", tmp_path / "vectors", "--model", checkpoint).status == 0


def test_the_variable_overrides_the_choice(run_pe, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_MODEL", "builtin")
    run = run_pe("models", "use", checkpoint)
    assert run.status == 0 and "PE_MODEL overrides it: builtin" in run.stderr
    assert run_pe("models").stderr == f"note: default of {USED_BY['model']}: builtin\n"


def test_an_index_keeps_its_model(run_pe, directory: Path, checkpoint: Path, terminal) -> None:
    assert run_pe("index", directory, "--model", "builtin").status == 0
    assert run_pe("models", "use", checkpoint).status == 0
    run = run_pe("search", "a cat", directory)
    assert run.status == 0
    rebuild = f"pe index --rebuild -m {checkpoint} DIR"
    line = f"warning: this index uses builtin, a small demo model; to use {checkpoint}: {rebuild}\n"
    assert line in run.stderr
    assert run_pe("index", directory, "--rebuild").status == 0
    assert line in run_pe("search", "a cat", directory).stderr  # a rebuild keeps the model
    assert run_pe("index", directory, "--rebuild", "--model", checkpoint).status == 0
    assert "demo" not in run_pe("search", "a cat", directory).stderr


def test_a_spatial_model_is_not_that_of_searches(run_pe, tmp_path: Path, config: Path) -> None:
    write_checkpoint(create_model("PE-Spatial-T16-512"), tmp_path / "spatial.safetensors")
    assert run_pe("models", "use", tmp_path / "spatial.safetensors").status == 0
    assert json.loads(config.read_text()) == {"spatial": str(tmp_path / "spatial.safetensors")}


def test_only_what_can_be_loaded_is_chosen(run_pe, tmp_path: Path, config: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("PE-Core-L14-224", "did you mean PE-Core-B16-224, PE-Core-L14-336"),
        ("bultin", "did you mean builtin"),
        ("builtin-lagn", "did you mean builtin-lang"),
        ("bultin-depth", "did you mean builtin-depth"),
        ("facebook/Perception-LM-9B", "did you mean facebook/Perception-LM-"),
        ("perception-lm-1b", "did you mean facebook/Perception-LM-1B"),
        ("runs/a/perception-lm-1b", "no model is called 'runs/a/perception-lm-1b'"),
        ("facebook/PE-Detecton", "did you mean facebook/PE-Detection"),
        ("facebook/PE-Detection", "has several detectors; download one, then: pe models use FILE"),
        ("PE-Core-L14-336", "could not be fetched"),
        (tmp_path / "empty", "a directory, not a checkpoint"),
        (tmp_path / "gone.pt", "no such file"),
    ):
        run = run_pe("models", "use", name)
        assert run.status == 2 and message in run.stderr
    assert run_pe("models", "use").status == run_pe("models", "use", "builtin", "builtin").status == 2
    assert not config.exists()
    assert run_pe("models", "use", "someone/Perception-LM-1B-finetuned").status == 0  # may be on the hub


def test_a_damaged_choice_is_one_line(run_pe, config: Path, directory: Path) -> None:
    config.parent.mkdir(parents=True)
    for content in ("{", "[]", '{"model": 3}'):
        config.write_text(content)
        run = run_pe("search", "a cat", directory)
        assert run.status == 2 and f"{config} does not name a model; choose one with: pe models use NAME" in run.stderr
    assert run_pe("models", "use", "builtin").status == run_pe("search", "a cat", directory).status == 0


def test_models_show_the_default_and_the_size_of_a_download(run_pe, terminal) -> None:
    last = run_pe("models").stdout.splitlines()[-1]
    assert last == "default: builtin, a small demo; choose another: pe models use PE-Core-S16-384 (0.3 GB)"
    entries = {entry["name"]: entry for entry in json.loads(run_pe("models", "--json").stdout)}
    assert [name for name, entry in entries.items() if entry["default"]] == ["PE-Core-N16-128"]
    assert {name: entry["download_bytes"] for name, entry in entries.items() if name in MODELS} == {
        name: entry.download_bytes for name, entry in MODELS.items()
    }
    assert find_model("builtin").download_bytes == 0


def test_a_choice_that_is_no_model_is_told_with_what_made_it(
    run_pe, directory: Path, checkpoint: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"model": str(directory / "gone.safetensors")}))
    run = run_pe("search", "a cat", directory)
    assert (
        run.status == 2 and f"{config} names '{directory / 'gone.safetensors'}', which is neither a model" in run.stderr
    )
    monkeypatch.setenv("PE_MODEL", "nonsense")
    for command in (
        ("search", "a cat", directory),
        ("index", directory),
        ("classify", directory, "--labels", "cat,dog"),
    ):
        run = run_pe(*command)
        assert run.status == 2 and "the environment variable PE_MODEL names 'nonsense', which is neither" in run.stderr
    assert run_pe("models").status == run_pe("models", "--json").status == 0
    assert run_pe("index", directory, "--model", checkpoint).status == 0
    for command in (("search", "a cat", directory), ("index", directory)):  # by the index's own model
        assert run_pe(*command).status == 0


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
    assert json.loads((directory / ".pe-index" / "settings.json").read_text())["source"] == str(checkpoint)
