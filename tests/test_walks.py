"""The walks of docs/architecture.md name functions that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "perception_encoder"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::([\w.]+)`", TEXT)))


@cache
def parse(file: str) -> ast.AST:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


def test_walks_are_there() -> None:
    assert TEXT.count("\n### ") >= 4 and len(NAMED) >= 40


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_function_exists(file: str, name: str) -> None:
    node = parse(file)
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found = [child for child in ast.iter_child_nodes(node) if isinstance(child, kinds) and child.name == part]
        assert found, f"{file} has no {name}"
        node = found[-1]
