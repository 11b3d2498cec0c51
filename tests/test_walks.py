"""The walks of docs/architecture.md name functions that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "perception_encoder"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::([\w.]+)`", TEXT)))


@cache
def parse(file: str) -> ast.AST:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


def test_walks_are_there() -> None:
    assert TEXT.count("\n### ") >= 4 and len(NAMED) >= 40


def test_the_named_functions_exist() -> None:
    assert [f"{file}::{name}" for file, name in NAMED if not exists(file, name)] == []


def exists(file: str, name: str) -> bool:
    node = parse(file)
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found = [child for child in ast.iter_child_nodes(node) if isinstance(child, kinds) and child.name == part]
        if not found:
            return False
        node = found[-1]
    return True
