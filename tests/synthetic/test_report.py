"""Results as pages: tables of classification and retrieval, and `python -m synthetic.report`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perception_encoder.cli import output
from perception_encoder.evaluation.report import Table, full_table
from perception_encoder.evaluation.results import Measurement
from synthetic.report import classification_table, page, retrieval_table, summary
from tests.cli.evaluate.conftest import colour_models
from tests.evaluation.colours import write_colours
from tests.evaluation.test_report import METRIC, RESULT

__all__ = ["colour_models"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        write_colours(tmp_path / "photos" / f"{split}.tar", "toys", ["red", "green", "blue"])
    return tmp_path / "photos"


def test_a_page_is_made_of_the_json(run_module, colour_models, photos: Path, tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    run_module("suite", "any", "--photos", photos, "-o", result)
    assert run_module("report", result).status == output.OK
    assert "| toys | 3 | 33.3 | 100.0 | 100.0 | 100.0 |" in (tmp_path / "r.md").read_text(encoding="utf-8")


def test_a_page_needs_a_result(run_module, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{}", encoding="utf-8")
    run = run_module("report", tmp_path / "r.json")
    assert run.status == output.ERROR and "r.json is not a result" in run.stderr
    assert run_module("report", tmp_path / "none.json").status == output.ERROR


def test_a_missing_result_is_one_line(run_module, tmp_path: Path) -> None:
    run = run_module("report", tmp_path / "missing.json")
    assert run.status == 2 and "missing.json cannot be read: No such file" in run.stderr


def test_accuracies_stand_beside_chance_and_probe() -> None:
    table = classification_table(RESULT)
    assert table.columns == ("task", "classes", "chance", "squash", "crop", "linear probe")
    assert table.rows == (
        ("flowers", "4", "25.0", "73.0 ±1.5", "83.0 ±1.5", "81.2 ±1.5"),
        ("clothing", "4", "25.0", "39.9 ±1.5", "10.0 ±1.5", "–"),
        ("caltech101/unseen", "4", "25.0", "20.0 ±1.5", "10.0 ±1.5", "–"),
    )


def test_retrieval_stands_beside_chance() -> None:
    assert retrieval_table(RESULT).rows == (("openmoji", "image by name R@1", "500", "0.20", "25.0 ±5.0"),)


def test_a_page_may_show_further_columns() -> None:
    wider = Table(("task", "x"), (("flowers", "seven"),)), retrieval_table(RESULT)
    text = page(RESULT, "r.json", wider, "make pages")
    assert "| flowers | seven |" in text and "Made by `make pages r.json`" in text
    assert classification_table(RESULT).markdown() not in text and summary(RESULT, wider) in text


def test_the_page_says_where_it_comes_from_and_what_is_left_out() -> None:
    text = page(RESULT, "builtin.json")
    assert "`python -m synthetic.report builtin.json`" in text and "weights abc" in text
    assert "- flowers-7: cannot be decoded" in text
    assert summary(RESULT) in text and full_table(RESULT).markdown() not in text  # that is in the JSON
    tracked = replace(
        RESULT, measurements=(Measurement(task="tracking", method="label propagation", metrics=(METRIC,)),)
    )
    assert full_table(tracked).markdown() in page(tracked, "tracking.json")
