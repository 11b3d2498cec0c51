"""What the documents name exists: links of all kinds, options, variables, modules, extras and public names."""

from __future__ import annotations

import json
import operator
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

import perception_encoder as pe
from perception_encoder.cli.groups import adapt
from perception_encoder.cli.main import app
from tests.test_docs import PAGES, headings

ROOT = Path(__file__).parent.parent
ALL_PAGES = [*PAGES, *sorted((ROOT / "perception_encoder" / "weights").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
OURS = r"https://(?:raw\.githubusercontent|github)\.com/perception-encoder/perception-encoder/(?:(?:blob|tree)/)?main/([^)\s\"'#]+)"
"""A link to a file of this repository on its host."""
PARTS = ("perception_encoder", "synthetic", "experiments", "benchmarks", "tests", "docs")
VARIABLE = r"\bPE_[A-Z_]*[A-Z]\b"
OTHER_PROGRAMS = {
    "pip": "--extra-index-url --no-deps --force-reinstall --group --upgrade",
    "torchrun": "--nproc-per-node --no-python",
    "slurm": "--nodes --ntasks-per-node --gpus-per-node --time --requeue --signal",
    "docker": "--build-arg",
    "pytest": "--pdb",
    "open_clip_train": "--pretrained --train-data --csv-separator --csv-img-key --csv-caption-key",
    "trtexec": "--onnx --saveEngine --fp16 --minShapes --optShapes --maxShapes",
    "the reference": "--quad_scale",
    "this repository's own": "--limit --tasks --all --kinds --lines --look --text-height --models",
}
"""Options on the pages that are not those of `pe`."""


def options(command: Any, context: Any) -> set[str]:
    """The options of a command and of those below it."""
    adapt(command, context)
    found = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for name in command.list_commands(context) if hasattr(command, "list_commands") else []:
        child = command.get_command(context, name)
        found |= options(child, typer.Context(child, info_name=name, parent=context))
    return found


def markdown(path: Path) -> str:
    """A page, or the text cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def code(text: str) -> list[str]:
    """The lines of a page's code blocks, and its code spans."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return [line for block in blocks for line in block.splitlines()] + spans


@pytest.mark.parametrize("page", [*ALL_PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_links_to_this_repository_lead_to_its_files(page: Path) -> None:
    text = markdown(page)
    places = [(ROOT, target) for target in re.findall(OURS, text)]
    places += [(page.parent, target) for target in re.findall(r"(?:\]\(|(?:src|href)=\")([^)\s\"]+)", text)]
    for base, target in places:
        name, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        linked = base / name if name else page
        assert linked.exists(), target
        assert not anchor or linked.suffix != ".md" or anchor in headings(linked), target


def test_options_on_the_pages_exist() -> None:
    """Also in prose, and in the later lines of a command."""
    program: Any = typer.main.get_command(app)
    known = options(program, typer.Context(program, info_name="pe")) | {"--help", "--help-all"}
    others = {option for names in OTHER_PROGRAMS.values() for option in names.split()}
    named = {option for page in PAGES for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", markdown(page))}
    assert named - known - others == set()
    assert others - named == set(), "no page names these"
    assert others & known <= {"--models", "--all", "--limit", "--tasks"}


def test_names_of_the_package_on_the_pages_exist() -> None:
    """But for the changelog's, which may be former ones; NAME stands for any."""
    name = r"(?<![\w./\"'-])pe\.([a-zA-Z]\w*(?:\.[a-zA-Z]\w*)*)"
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]
    found = {(page.name, match) for page in pages for line in code(markdown(page)) for match in re.findall(name, line)}
    assert len(found) > 200
    assert [place for place in found if not place[1].isupper() and not is_public(place[1])] == []


def is_public(name: str) -> bool:
    """Whether `pe.NAME` exists, such as `pe.evaluate.knn`."""
    try:
        operator.attrgetter(name)(pe)
    except AttributeError:
        return False
    return True


def test_variables_modules_and_extras_on_the_pages_exist() -> None:
    sources = [
        *(ROOT / name for name in ("Makefile", "compose.yaml", "Dockerfile")),
        *(path for part in PARTS for path in (ROOT / part).rglob("*.py")),
    ]
    variables = {name for path in sources for name in re.findall(VARIABLE, path.read_text(encoding="utf-8"))}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for page in PAGES:
        text = markdown(page)
        assert set(re.findall(VARIABLE, text)) <= variables, page
        for listed in re.findall(r"\bextras? ((?:`\w+`(?:, | and )?)+)", text):
            assert set(re.findall(r"`(\w+)`", listed)) <= extras.keys(), f"{page}: {listed}"
        for module in re.findall(rf"python -m ((?:{'|'.join(PARTS)})\.[\w.]*[a-z])\b", text):
            assert find_spec(module), f"{page}: {module}"
