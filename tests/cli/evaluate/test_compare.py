"""`pe eval compare`: which of two models is better, and that both must have the same items."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.cli import output

pytestmark = pytest.mark.usefixtures("colour_models")


def test_compare_names_the_better_model(run_pe, photos: Path, tmp_path: Path) -> None:
    files = {}
    for name in ("any", "blind"):
        files[name] = tmp_path / f"{name}.json"
        options = ("--split", "val", "--transform", "squash", "-o", files[name])
        assert run_pe("eval", "classification", name, "--data", photos, *options).status == output.OK
    run = run_pe("eval", "compare", *files.values())
    assert run.status == output.OK, run.stderr
    assert run.stdout.splitlines()[0].split("\t")[3:5] == ["colours", "blind"]
    assert run.stdout.count("+66.7") >= 2 and "not shown" not in run.stdout
    run = run_pe("eval", "compare", files["any"], files["any"])
    assert run.stdout.count("0.0 (0.0 to 0.0)") == run.stdout.count("not shown") == 2
    (photos / "val" / "red" / "0.png").unlink()
    run_pe(
        "eval", "classification", "any", "--data", photos, "--split", "val", "--transform", "squash", "-o", files["any"]
    )
    run = run_pe("eval", "compare", *files.values())
    assert run.status == output.ERROR and "not evaluated on the same items" in run.stderr
