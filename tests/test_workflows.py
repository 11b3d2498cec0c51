"""The files that run the checks elsewhere: they are valid, and they run the same `make` targets as a developer does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed; install the extra dev")

FILES = [*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]
CHECKOUT = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="no .github here: this is a source distribution")


def load(path: Path) -> dict[str, Any]:
    """Read a YAML file; a workflow's key `on` is read as True, as YAML 1.1 has it."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict), path
    return document


def make_targets(text: str) -> set[str]:
    """The targets of `make` that a shell text calls."""
    return set(re.findall(r"\bmake ([a-z][\w-]*)", text))


def steps(workflow: str) -> list[dict[str, Any]]:
    """All steps of a workflow's jobs, in order."""
    jobs = load(ROOT / ".github" / "workflows" / workflow)["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@CHECKOUT
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_valid(path: Path) -> None:
    document = load(path)
    if path.parent.name == "workflows":
        assert {"name", True, "permissions", "jobs"} <= document.keys()
        for job in document["jobs"].values():
            assert job["runs-on"] and all(("run" in step) != ("uses" in step) for step in job["steps"])
    elif path.parent.name == "ISSUE_TEMPLATE":
        assert document["name"] and document["description"] and document["body"]
        fields = [field for field in document["body"] if field["type"] != "markdown"]
        assert all(field["id"] and field["attributes"]["label"] for field in fields)
    else:
        assert document["repos"]


@CHECKOUT
def test_continuous_integration_runs_make_check() -> None:
    commands = "\n".join(step.get("run", "") for step in steps("ci.yml"))
    assert {"check", "test-dtypes"} <= make_targets(commands)
    if (ROOT / ".ci" / "run").is_file():
        assert {"check", "test-dtypes"} <= make_targets((ROOT / ".ci" / "run").read_text(encoding="utf-8"))


@CHECKOUT
def test_the_wheel_workflow_builds_tries_and_keeps_the_wheel() -> None:
    all_steps = steps("wheel.yml")
    assert "wheel" in make_targets("\n".join(step.get("run", "") for step in all_steps))
    uploads = [step["with"] for step in all_steps if step.get("uses", "").startswith("actions/upload-artifact")]
    assert [upload["path"] for upload in uploads] == ["dist/*"]
    assert any("pe search" in step.get("run", "") for step in all_steps)


def test_make_check_is_lint_types_documentation_and_tests() -> None:
    """`make check` itself is what calls this test, so only what it would do is looked at."""
    process = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True)
    for part in ("ruff check", "mypy", "mkdocs build --strict", "pytest"):
        assert part in process.stdout, part


@CHECKOUT
def test_pre_commit_runs_targets_that_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    hooks = [hook for repo in load(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert hooks and make_targets(" ".join(hook["entry"] for hook in hooks)) <= targets
