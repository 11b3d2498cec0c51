"""`pe models`: the table, JSON, and near names of an unknown model."""

from __future__ import annotations

import json

from perception_encoder.cli import output
from perception_encoder.models.registry import MODELS, list_models


def test_models_lists_all(run_pe) -> None:
    table = run_pe("models").stdout
    assert all((MODELS[name].builtin or name) in table for name in list_models())
    assert run_pe("models", "list").stdout == table
    assert run_pe("models", "--json").stdout == run_pe("models", "list", "--json").stdout


def test_its_commands_are_listed_and_have_help_texts(run_pe) -> None:
    overview, use = run_pe("models", "--help").stdout, run_pe("models", "use", "--help").stdout
    assert "│ list " in overview and "│ use " in overview
    assert "Make a model the default." in use and "[-m] MODEL" in use


def test_models_as_json(run_pe) -> None:
    (entry,) = json.loads(run_pe("models", "PE-Core-L-14-336", "--json").stdout)
    assert entry["name"] == "PE-Core-L14-336"
    assert entry["vision"]["width"] == 1024
    assert "vit_pe_core_large_patch14_336.fb" in entry["aliases"]


def test_models_shows_near_names_of_an_unknown_one(run_pe) -> None:
    run = run_pe("models", "PE-Core-L14-224")
    assert run.status == output.ERROR
    assert "PE-Core-L14-336" in run.stderr
    assert "did you mean builtin-lang" in run_pe("models", "list", "builtin-lagn").stderr
