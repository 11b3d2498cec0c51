"""Functions of lmms-eval and pycocoevalcap, without importing what they do not need.

lmms-eval is installed without its dependencies, so its modules cannot be imported; single functions are taken from
their files and run.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import re
import statistics
import string
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def lmms_file(path: str) -> Path:
    """A file of the installed lmms-eval; skips the test without it."""
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs lmms-eval: pip install --no-deps lmms-eval==0.7.3")
    return Path(spec.submodule_search_locations[0]) / path


def lmms_functions(path: str, *names: str, **given: Any) -> dict[str, Any]:
    """Some functions and classes of one of its files, by name; `given`: what else they use."""
    file = lmms_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in patterns
        tree = ast.parse(file.read_text(encoding="utf-8"))
        body = [node for node in tree.body if getattr(node, "name", None) in names]
        for node in body:
            node.decorator_list = []  # registries
        assert {node.name for node in body} == set(names)
        namespace = {"re": re, "math": math, "statistics": statistics, "np": np, "string": string, **given}
        exec(compile(ast.Module(body, []), str(file), "exec"), namespace)
    return namespace


def lmms_statement(path: str, function: str, condition: str) -> Any:
    """The code of an `if` inside one of its functions, by its condition, to be run with `exec`."""
    tree = ast.parse(lmms_file(path).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
    found = [node for item in functions for node in ast.walk(item) if isinstance(node, ast.If)]
    (statement,) = (node for node in found if ast.unparse(node.test) == condition)
    return compile(ast.Module([statement], []), path, "exec")
