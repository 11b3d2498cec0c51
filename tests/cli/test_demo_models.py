"""Demo models never look like real ones: no command answers with one without saying so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.language_models import weights
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.registry import demo_note
from tests.cli.language.conftest import language_run, media
from tests.conftest import Run

pytestmark = pytest.mark.usefixtures("config")

__all__ = ["language_run", "media"]

DEMO = "is a small demo model, and its results are often wrong"
CHOOSE = "choose a published model: pe models use"
ENCODER = f"warning: builtin {DEMO}; {CHOOSE} PE-Core-S16-384 (0.35 GB)\n"
SPATIAL = f"warning: builtin-spatial {DEMO}; {CHOOSE} PE-Spatial-S16-512 (0.09 GB)\n"
LANGUAGE = f"warning: builtin-lang {DEMO}; {CHOOSE} facebook/Perception-LM-1B (3.10 GB)\n"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def tiny_lang(language_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A tiny language model in the place of the built-in one."""
    (tmp_path / "package").mkdir()
    file = tmp_path / "package" / "builtin-lang.safetensors"
    file.write_bytes((language_run / weights.WEIGHTS).read_bytes())
    monkeypatch.setattr(weights, "packaged_weights", lambda name: file)


def test_the_engine_s_language_model_has_to_be_chosen(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    run = run_pe("engine", "run", "-o", tmp_path / "out", "--videos", tmp_path)
    assert run.status == 2 and run.stdout == ""
    assert run.stderr == (
        "error: no language model is chosen; choose one for every command, such as: pe models use "
        "facebook/Perception-LM-1B (3.10 GB); or for this one with -m MODEL (-m builtin-lang is a small offline demo)\n"
    )


@pytest.mark.usefixtures("tiny_lang")
def test_the_demo_answers_and_says_so(run_pe: Callable[..., Run], media: Path) -> None:
    ask = ("ask", media / "0.png", "what?", "--max-tokens", "2")
    for chosen in ((), ("-m", "builtin-lang")):
        run = run_pe(*ask, *chosen, "--json")
        assert run.status == 0 and json.loads(run.stdout)["model"] == "builtin-lang" and run.stderr == LANGUAGE
    assert run_pe(*ask).stderr == LANGUAGE
    run = run_pe("caption", media / "0.png", "--max-tokens", "24", "--json")
    assert json.loads(run.stdout)[0]["model"] == "builtin-lang" and run.stderr == LANGUAGE


def test_a_chosen_language_model_is_used(
    run_pe: Callable[..., Run], media: Path, language_run: Path, config: Path
) -> None:
    run = run_pe("models", "use", language_run)
    assert run.stdout == f"{language_run} is now the default for ask, caption and engine run\n"
    assert run_pe("models", "use", "builtin").status == 0  # choices of other kinds stay
    assert json.loads(config.read_text()) == {"language": str(language_run), "model": "builtin"}
    run = run_pe("ask", media / "0.png", "what?", "--json", "--max-tokens", "2")
    assert json.loads(run.stdout)["model"] == language_run.name and run.stderr == ""


def test_embeddings_name_the_demo(run_pe: Callable[..., Run], photo: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = run_pe("embed", photo, "-o", tmp_path / "v.parquet")
    assert run.stderr == ENCODER and pq.read_table(tmp_path / "v.parquet")["model"].to_pylist() == ["builtin"]
    run = run_pe("search", "a cat", tmp_path / "v.parquet", "--json", "-m", "PE-Core-N16-128")  # by another name
    assert run.stderr == ENCODER and json.loads(run.stdout)["model"] == "builtin"


def test_dense_commands_name_the_demo(run_pe: Callable[..., Run], photo: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out.png", "--overwrite")
    segment = ("segment", photo, "--point", "0.5,0.5", *out, "--short-side", 64, "--json")
    run = run_pe(*segment)
    assert json.loads(run.stdout)["model"] == "builtin-spatial" and run.stderr == SPATIAL
    assert run_pe("models", "use", "builtin").status == 0
    assert run_pe(*segment).stderr == SPATIAL  # the model for searches is not that of segments
    run = run_pe(*segment, "-m", "builtin")
    assert json.loads(run.stdout)["model"] == "builtin" and run.stderr == ENCODER


def test_heads_are_demos_and_can_be_chosen(run_pe: Callable[..., Run], photo: Path, tmp_path: Path) -> None:
    run = run_pe("depth", photo, "-o", tmp_path / "depths")
    assert f"warning: builtin-depth {DEMO}; no depth head is published" in run.stderr
    for name, used_by in (("builtin-depth", "depth"), ("builtin-detector", "detect"), ("builtin-spatial", "track and")):
        run = run_pe("models", "use", name)
        assert run.status == 0 and f"{name} is now the default for {used_by}" in run.stdout
    assert demo_note("builtin-detector").endswith("facebook/PE-Detection, then pe models use FILE")
    assert demo_note("PE-Core-S16-384") == ""


def test_evaluations_name_the_demo(run_pe: Callable[..., Run], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    run = run_pe("eval", "classification", "builtin", "--data", photos, "--transform", "squash", "-o", out)
    assert run.status == 0 and ENCODER in run.stderr
    assert json.loads(out.read_text())["model"] == "builtin"


def test_results_of_the_demo_say_so(run_pe: Callable[..., Run], photo: Path, tmp_path: Path) -> None:
    directory, page = tmp_path / "photos", tmp_path / "page.html"
    directory.mkdir()
    photo.rename(directory / "photo.png")
    on_page = ENCODER.removeprefix("warning: ").rstrip()
    classify = ("classify", directory, "--labels", "cat,dog")
    for command in (("search", "a cat", directory), classify, ("index", directory)):
        run = run_pe(*command, "--json")
        assert json.loads(run.stdout) and ENCODER in run.stderr
        assert ENCODER in run_pe(*command, "--model", "builtin").stderr  # even if it was chosen
    for command in (("search", "a cat", directory), ("near-duplicates", directory)):
        assert ENCODER in run_pe(*command, "--html", page).stderr
        assert on_page in page.read_text(encoding="utf-8")
    mine = tmp_path / "mine.safetensors"
    write_checkpoint(create_model("builtin"), mine)
    run = run_pe(*classify, "-m", mine, "--json")  # a user's own model of the demo's size
    assert run.stderr == "" and json.loads(run.stdout)["model"] == "PE-Core-N16-128"
