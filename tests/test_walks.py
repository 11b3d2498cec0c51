"""The five walks of docs/architecture.md: their functions exist, and each calls those indented below it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "perception_encoder"
LINE = re.compile(r"^( *)- `([\w/]+\.py)::([\w.]+)`")
MENTION = re.compile(r"`([\w/]+\.py)::([\w.]+)`")


@cache
def walks() -> dict[str, list[tuple[int, str, str]]]:
    """Return the steps of each walk: depth, file, name."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Five walks")[2]
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    return {
        section.partition("\n")[0]: [
            (len(match[1]) // 4, match[2], match[3]) for line in section.splitlines() if (match := LINE.match(line))
        ]
        for section in sections
    }


def definition(file: str, name: str) -> ast.AST:
    """Return the node of a function, class or method; LookupError if it does not exist."""
    node: ast.AST = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        inner = [each for each in ast.iter_child_nodes(node) if isinstance(each, kinds) and each.name == part]
        if not inner:
            raise LookupError(f"{file} has no {name}")
        node = inner[-1]  # behind its overloads
    return node


def calls_in(node: ast.AST) -> set[str]:
    """Return the last name of everything that a definition calls."""
    functions = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    names = {function.id for function in functions if isinstance(function, ast.Name)}
    return names | {function.attr for function in functions if isinstance(function, ast.Attribute)}


def called_as(name: str) -> set[str]:
    """Return what a call is written as: the last name, or for `forward` any call of the module."""
    last = name.rpartition(".")[2]
    return {"model"} if last == "forward" else {last}


def test_there_are_five_walks() -> None:
    assert len(walks()) == 5
    assert all(len(steps) >= 8 for steps in walks().values())


@pytest.mark.parametrize("walk", walks())
def test_each_step_calls_the_next_one_down(walk: str) -> None:
    callers: list[tuple[str, str]] = []
    for depth, file, name in walks()[walk]:
        definition(file, name)
        if depth:
            caller = definition(*callers[depth - 1])
            assert calls_in(caller) & called_as(name), f"{'::'.join(callers[depth - 1])} does not call {file}::{name}"
        callers = [*callers[:depth], (file, name)]


def test_every_function_of_the_page_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for file, name in MENTION.findall(text):
        definition(file, name)


def test_a_call_that_is_missing_is_seen() -> None:
    node = ast.parse("def f():\n    g()\n    h.k(m)")
    assert calls_in(node) == {"g", "k"}
