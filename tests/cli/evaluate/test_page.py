"""`pe eval page`: a page from the JSON of a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output
from tests.evaluation.colours import write_colours

pytestmark = pytest.mark.usefixtures("colour_models")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        write_colours(tmp_path / "photos" / f"{split}.tar", "toys", ["red", "green", "blue"])
    return tmp_path / "photos"


def test_a_page_is_made_of_the_json(run_pe, photos: Path, tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    run_pe("eval", "suite", "any", "--photos", photos, "-o", result)
    assert run_pe("eval", "page", result).status == output.OK
    assert "| toys | 3 | 33.3 | 100.0 | 100.0 | 100.0 |" in (tmp_path / "r.md").read_text(encoding="utf-8")


def test_a_page_needs_a_result(run_pe, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{}", encoding="utf-8")
    run = run_pe("eval", "page", tmp_path / "r.json")
    assert run.status == output.ERROR and "r.json is not a result" in run.stderr
    assert run_pe("eval", "page", tmp_path / "none.json").status == output.ERROR


def test_a_missing_result_is_one_line(run_pe, tmp_path: Path) -> None:
    run = run_pe("eval", "page", tmp_path / "missing.json")
    assert run.status == 2 and "missing.json cannot be read: No such file" in run.stderr
