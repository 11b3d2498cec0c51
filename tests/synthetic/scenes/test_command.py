"""`python -m synthetic.scenes`: the dataset that it writes, and one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthetic.scenes.objects.bundled import revolved_models
from synthetic.scenes.samples import production


def test_scenes_are_made(run_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "bundled_models", revolved_models)
    run = run_module("scenes", "-o", tmp_path, "--count", 2, "--size", 32, "--jobs", 1)
    assert run.status == 0 and "2 images" in run.stdout
    written = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert written == ["00000.tar", "ATTRIBUTION.txt", "instances.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "all"), "train, val, test"),
        (("--size", "33"), "even"),
        (("--models", "gone.tar"), "synthetic.furniture"),
    ],
)
def test_bad_settings_are_one_line(
    run_module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(production, "bundled_models", revolved_models)
    run = run_module("scenes", "-o", tmp_path, *arguments)
    assert run.status == 2 and message in run.stderr and "Traceback" not in run.stderr
