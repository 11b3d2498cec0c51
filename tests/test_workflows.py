"""Continuous integration, the wheel's workflow and pre-commit run the same `make` targets as a developer does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed; install the extra dev")
CHECKOUT = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="no .github here: this is a source distribution")


def commands(path: Path) -> str:
    """The shell commands of a workflow's jobs, or the entries of pre-commit's hooks."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    steps = [step for job in document.get("jobs", {}).values() for step in job["steps"]]
    hooks = [hook for repo in document.get("repos", ()) for hook in repo["hooks"]]
    return "\n".join([*(step.get("run", "") for step in steps), *(hook["entry"] for hook in hooks)])


def make_targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z][\w-]*)", text))


@CHECKOUT
def test_continuous_integration_and_pre_commit_run_make() -> None:
    known = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    workflows = ROOT / ".github" / "workflows"
    for path in (*workflows.glob("*.yml"), ROOT / ".pre-commit-config.yaml"):
        assert make_targets(commands(path)) <= known, path
    assert {"check", "test-dtypes"} <= make_targets(commands(workflows / "ci.yml"))
    assert {"lint", "types"} <= make_targets(commands(ROOT / ".pre-commit-config.yaml"))
    if (ROOT / ".ci" / "run").is_file():
        assert {"check", "test-dtypes"} <= make_targets((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    wheel = commands(workflows / "wheel.yml")
    assert "wheel" in make_targets(wheel) and "pe search" in wheel


def test_make_check_is_lint_types_documentation_and_tests() -> None:
    """`make check` itself is what calls this test, so only what it would do is looked at."""
    process = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True)
    for part in ("ruff check", "codespell", "mypy", "mkdocs build --strict", "pytest"):
        assert part in process.stdout, part
