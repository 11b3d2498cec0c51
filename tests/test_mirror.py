"""`tests/` mirrors the package: the tests of perception_encoder/a/b.py are in tests/a/test_b.py."""

from __future__ import annotations

import ast
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
    "search/web/test_dense_browser.py": "regions, tracking and depth in a browser",
    "search/web/test_page_browser.py": "the page in a browser",
    "video_data_engine/test_engine_kill.py": "a killed engine goes on",
    "video_data_engine/test_engine_stopped.py": "so does one that a full disk, an endpoint or another engine stopped",
    "serving/test_api_clients.py": "clients of other projects",
    "serving/test_api_limits.py": "limits of the running server",
    "train/test_device.py": "the loop on a GPU",
    "video_dataset/annotation/test_page_browser.py": "the annotation page in a browser",
}
"""Test files that belong to no single module, with the reason."""
INDIRECT = {
    "cli/default_model.py": "by every command that takes a model",
    "cli/models/export_head.py": "by its command, `pe export head`",
    "distillation/config.py": "by its recipes",
    "distillation/plan.py": "by `plan_recipe`, of which it is a case",
    "distillation/recipes.py": "by their names in the catalogue",
    "inference/embedder.py": "by `Encoder`, which inherits it",
    "inference/sentence_interface.py": "by `Encoder`, which inherits it",
    "models/external/external_model.py": "by `open_model`, which chooses the library",
    "models/external/transformers_models.py": "by `open_model`, which chooses the library",
    "models/text_transformer.py": "by a CLIP model",
    "pretraining/averaging.py": "by a run",
    "pretraining/config.py": "by the built-in recipe",
    "search/index/changes.py": "by the update of an index",
    "search/index/rows.py": "by the update of an index",
    "search/web/rescan.py": "by the page's library",
    "search/web/signed_ids.py": "by the page's addresses",
    "serving/bodies.py": "by the server",
    "serving/metrics.py": "by the server",
    "train/image_text_task.py": "by the task that inherits it",
    "video_finetuning/config.py": "by its recipes",
    "video_finetuning/recipes.py": "by their names in the catalogue",
    "video_finetuning/run.py": "by the pretraining that it calls",
}
"""Modules that their tests reach by another module, with the way."""
WHOLE_REPOSITORY = ("experiments", "benchmarks", "examples", ".")
"""Directories of tests of what lies outside the package."""


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_each_module_has_its_test_file(module: Path) -> None:
    path = TESTS / module.parent / f"test_{module.name}"
    assert path.is_file(), f"{module} has no {path.relative_to(ROOT)}"
    assert "def test_" in path.read_text(encoding="utf-8")


def reaches(source: str, module: Path) -> bool:
    """Return whether a test imports a module, names it in a string (a patch, a script), or runs it as a command."""
    name = ".".join(("perception_encoder", *module.with_suffix("").parts))
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                names = [alias.name for alias in aliases]
            case ast.ImportFrom(module=str(base), names=aliases):
                names = [base, *(f"{base}.{alias.name}" for alias in aliases)]
            case ast.Constant(value=str(text)):
                command = module.parts[0] == "cli" and "run_pe" in source and text in (module.stem, module.parent.name)
                names = [name] if command or name in text else []
            case _:
                continue
        if name in names:
            return True
    return False


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_each_test_file_tests_its_module(module: Path) -> None:
    source = (TESTS / module.parent / f"test_{module.name}").read_text(encoding="utf-8")
    assert reaches(source, module) == (module.as_posix() not in INDIRECT)


@pytest.mark.parametrize(
    ("source", "reached"),
    [
        ("from perception_encoder.cli.train.plan import print_plan", True),
        ("from perception_encoder.cli.train import plan as module", True),
        ("import perception_encoder.cli.train.plan", True),
        ("patch('perception_encoder.cli.train.plan.print', None)", True),
        ("run_pe('train', name, '--plan')", True),
        ("run_pe('embed', name)", False),
        ("from perception_encoder.cli.train import train", False),
    ],
)
def test_the_check_sees_each_way_to_reach_a_module(source: str, reached: bool) -> None:
    assert reaches(source, Path("cli/train/plan.py")) is reached


def test_each_test_file_has_its_module() -> None:
    files = (path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
    inside = [path for path in files if path.parent.as_posix().split("/")[0] not in WHOLE_REPOSITORY]
    without = {path.as_posix() for path in inside if path.parent / path.name.removeprefix("test_") not in MODULES}
    assert without == set(CROSS_CUTTING)
