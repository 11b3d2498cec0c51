"""`tests/` mirrors the package: the tests of perception_encoder/a/b.py are in tests/a/test_b.py."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE, TESTS = ROOT / "perception_encoder", ROOT / "tests"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if not path.name.startswith("__"))

CROSS_CUTTING = {
    "datasets/test_damaged_annotations.py": "the same damage for every reader",
    "evaluation/test_pages.py": "the built-in model's published results",
    "evaluation/language/test_parity.py": "scorers beside those of lmms-eval and pycocoevalcap",
    "formats/test_remote_shards.py": "shards behind a web server",
    "formats/test_s3_shards.py": "shards behind a server of S3's protocol",
    "inference/test_embed_kill.py": "a killed `pe embed` goes on",
    "models/test_golden.py": "parity with the reference",
    "models/test_open_clip.py": "parity with open_clip",
    "models/test_padding_mask.py": "padding through all layers",
    "models/test_timm.py": "parity with timm",
    "pretraining/test_parallel.py": "several processes",
    "pretraining/test_sharing.py": "gradients over ranks",
    "search/index/test_index_kill.py": "a killed `pe index` goes on",
    "search/test_bad_input.py": "bad input to every command",
    "search/web/test_page_browser.py": "the page in a browser",
    "serving/test_api_clients.py": "clients of other projects",
    "serving/test_api_limits.py": "limits of the running server",
    "train/test_device.py": "the loop on a GPU",
}
"""Test files that belong to no single module, with the reason."""
WHOLE_REPOSITORY = ("experiments", "benchmarks", "examples", ".")
"""Directories of tests of what lies outside the package."""


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_each_module_has_its_test_file(module: Path) -> None:
    path = TESTS / module.parent / f"test_{module.name}"
    assert path.is_file(), f"{module} has no {path.relative_to(ROOT)}"
    assert "def test_" in path.read_text(encoding="utf-8")


def test_each_test_file_has_its_module() -> None:
    files = (path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
    inside = [path for path in files if path.parent.as_posix().split("/")[0] not in WHOLE_REPOSITORY]
    without = {path.as_posix() for path in inside if path.parent / path.name.removeprefix("test_") not in MODULES}
    assert without == set(CROSS_CUTTING)
