"""No call, command, class or setting is unsafe unless its user asks for that."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.conftest import ROOT

PACKAGE = ROOT / "perception_encoder"
SAFE = {
    "trust_remote_code": {False},
    "trusted": {False},
    "allow_private": {False},
    "allow_pickle": {False},
    "weights_only": {True},
    "allow_urls": {False},
    "lan": {False},
    "host": {None},
    "origins": {None, ()},
    "verify": {True},
    "follow_redirects": {False},
}
"""Values of security options that are not dangerous, as defaults and where a call writes them out."""


def options(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Every default of a function, of a class's field and of a command's option, and every value that a call passes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            named = [*node.args.posonlyargs, *node.args.args]
            defaults = node.args.defaults
            written = [*zip(named[len(named) - len(defaults) :], defaults, strict=True)]
            written += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            yield from ((argument.arg, default) for argument, default in written if default is not None)
        elif isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value is not None:
                    yield field.target.id, field.value
        elif isinstance(node, ast.Call):
            yield from ((word.arg, word.value) for word in node.keywords if word.arg is not None)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from ((str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant))


def constants(value: ast.expr) -> list[object]:
    """The constant that an expression is, if it is one; `choose(...)` and names are others' values."""
    try:
        return [ast.literal_eval(value)]
    except ValueError:
        return []


def test_security_options_are_off_unless_somebody_turns_them_on() -> None:
    found: dict[str, int] = dict.fromkeys(SAFE, 0)
    unsafe = []
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "synthetic").rglob("*.py")):
        for name, value in options(ast.parse(path.read_text(encoding="utf-8"))):
            if name == "verify" and path.parts[-2] in ("search", "storage", "cli"):  # of `pe index`
                continue
            for constant in constants(value) if name in SAFE else ():
                found[name] += 1
                if not any(constant is safe or (constant == safe and safe == ()) for safe in SAFE[name]):
                    unsafe.append(f"{path.relative_to(ROOT)}:{value.lineno}: {name}={constant!r}")
    assert unsafe == []
    assert found["trust_remote_code"] > 10 and found["weights_only"] > 1
