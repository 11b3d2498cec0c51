"""The pages that help to choose and to mend: families beside others, the map, and errors."""

from __future__ import annotations

import ast
import operator
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import perception_encoder as pe
from perception_encoder.cli.groups import adapt
from perception_encoder.cli.main import COMMANDS, app
from perception_encoder.models.registry import MODELS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OBJECTS = {"index": pe.Index, "dataset": pe.VideoDataset, "assistant": pe.Assistant}
"""What the map's calls on objects are methods of."""


FOREIGN = {
    *("Killed", "CUDA out of memory", "can't allocate memory", "Name or service not known", "Connection refused"),
    *("CERTIFICATE_VERIFY_FAILED", "offline mode is enabled", "401", "403", "gated"),
}
"""Messages of other programs: the system's, torch's and the hub client's."""


def read_page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def words(text: str) -> int:
    """The words of a page; the bars and dashes of its tables are none."""
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def table(text: str) -> list[list[str]]:
    """The rows of a page's last table, by cells."""
    lines = [line for line in text.rpartition("\n## ")[2].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_scores_of_pe_beside_other_families_are_those_of_the_registry() -> None:
    text = read_page("choose.md")
    rows = {row[0]: row[1:3] for row in table(text) if row[0].startswith("PE-Core")}
    assert rows == {
        name: [f"{MODELS[name].published['imagenet']}", f"{MODELS[name].published['coco']} ‡"]
        for name in MODELS
        if name in rows
    }
    assert len(rows) == 5
    assert words(text) <= 700


def rows_of(text: str) -> Iterator[list[str]]:
    """The rows of all tables of a page, by cells, without their headings."""
    for line in re.findall(r"^\|.*\|$", text, flags=re.MULTILINE):
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        if not re.fullmatch(r"-+|I want to …|message", cells[0]):
            yield cells


def spans(cell: str) -> list[str]:
    """The code of a cell; `pe export onnx`, `openvino` mean both `pe export onnx` and `pe export openvino`."""
    found: list[str] = []
    for span in re.findall(r"`([^`]+)`", cell):
        group = found[-1].rpartition(" ")[0] if found else ""
        found.append(f"{group} {span}" if group and re.fullmatch(r"[a-z][a-z-]*", span) else span)
    return found


def leaves(command: Any, context: Any, name: str = "pe") -> Iterator[str]:
    """The commands, such as `pe export onnx`."""
    adapt(command, context)
    if not hasattr(command, "list_commands"):
        yield name
        return
    for child in command.list_commands(context):
        below = command.get_command(context, child)
        yield from leaves(below, typer.Context(below, info_name=child, parent=context), f"{name} {child}")


def test_the_map_has_every_command_and_every_extra() -> None:
    text = read_page("map.md")
    program: Any = typer.main.get_command(app)
    commands = {name.removesuffix(" list") for name in leaves(program, typer.Context(program, info_name="pe"))}
    rows = list(rows_of(text))
    assert {len(row) for row in rows} == {5}
    shown = {span for row in rows for span in spans(row[1])}
    assert commands - shown == set(), "add a row to docs/map.md"
    assert {span for span in shown if span.startswith("pe ") and not re.match("pe (?:serve|train) ", span)} <= commands
    for part in text.split("\n## ")[1:]:
        first = {span.split()[1] for row in rows_of(part) for span in spans(row[1])[:1] if span.startswith("pe ")}
        assert first <= COMMANDS[part.partition("\n")[0]].keys(), "group docs/map.md as `pe --help-all` does"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {span for row in rows for span in spans(row[3])} == set(extras), "docs/map.md has other extras"
    assert words(text) <= 500


def test_the_calls_of_the_map_exist() -> None:
    calls = [span for row in rows_of(read_page("map.md")) for span in spans(row[2]) if "=" not in span]
    assert len(calls) >= 30
    for call in calls:
        owner, name = re.fullmatch(r"(\w+)\.([\w.]+)(?:\(.*\))?", call).groups()  # type: ignore[union-attr]
        operator.attrgetter(name)(OBJECTS.get(owner, pe))


def test_the_messages_of_the_troubleshooting_page_are_the_packages_own() -> None:
    """The words between what differs are in a string of the package."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "perception_encoder").rglob("*.py")]
    nodes = (node for tree in trees for node in ast.walk(tree))
    said = "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    messages = {span for row in rows_of(read_page("troubleshooting.md")) for span in spans(row[0])}
    assert messages > FOREIGN
    parts = {part.strip() for message in messages - FOREIGN for part in re.split(r"…|[:;] |[()]", message)}
    assert {part for part in parts if part not in said} == set()
