"""The documents say what is true: links lead somewhere, commands exist, generated pages are current."""

from __future__ import annotations

import importlib
import json
import operator
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median
from textwrap import indent
from typing import Any

import pytest
import typer
from rich.console import Console

import perception_encoder as pe
from perception_encoder.cli import output
from perception_encoder.cli.groups import adapt
from perception_encoder.cli.main import app
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import find_model
from perception_encoder.stages import configure
from perception_encoder.training.cost import tower_part

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "examples/README.md")]
PAGES += sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "synthetic").rglob("README.md")])
TYPED = [ROOT / "README.md", ROOT / "docs" / "quickstart.md", *sorted((ROOT / "docs" / "api").glob("[a-z]*.md"))]
IMPORTS = """\
from pathlib import Path
import numpy as np
import torch
from PIL import Image
import perception_encoder as pe
"""
"""What the examples of docstrings take as imported."""

KEYWORDS = """\
import perception_encoder as pe

scores = pe.evaluate.knn("builtin", "photos", k=[10, 20], layer=-1).scores
pe.evaluate.knn("builtin", "photos", prompts="photo")  # type: ignore[call-arg]
pe.evaluate.depth("builtin", "photos", eigen_crop="yes")  # type: ignore[arg-type]
pe.evaluate("depth", "builtin", "photos", eigen_crop=True)
"""
"""A keyword of another task, and one of another type, are errors: a type checker reports an `ignore` without one."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built strictly: a page outside the navigation or a link that leads nowhere is an error."""
    for module in ("material", "mkdocs"):
        pytest.importorskip(module, reason=f"{module} is not installed; install the extra docs")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


def commands(text: str) -> list[list[str]]:
    """Return the `make …` and `pe …` commands of a page's code blocks and code spans, as words."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()] + spans
    lines = [re.sub(r"^torchrun .* --no-python pe |^(?:[A-Z_]+=\S+ )+pe ", "pe ", line) for line in lines]
    return [line.split() for line in lines if re.match(r"(?:make|pe) [a-z]", line)]


def without_code(page: Path) -> str:
    """A page without its code blocks, whose comments look like headings."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def headings(page: Path) -> dict[str, str]:
    """The headings of a page by the anchor that a code host gives them: `name`, then `name-1` for the same again."""
    found: dict[str, str] = {}
    titles: list[str] = []
    for title in re.findall(r"^#+ (.*)$", without_code(page), flags=re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", title.lower())).replace(" ", "-")
        copies = titles.count(anchor)
        titles.append(anchor)
        found[f"{anchor}-{copies}" if copies else anchor] = title
    return found


def test_links_lead_somewhere_on_a_code_host() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not re.match(r"https?:", target):
                name, _, anchor = target.partition("#")
                linked = page.parent / name if name else page
                assert linked.exists(), f"{page}: {target}"
                assert not anchor or linked.suffix != ".md" or anchor in headings(linked), f"{page}: {target}"


def commands_described() -> dict[str, str]:
    """What docs/cli says of each command, with what holds for all of them."""
    directory = ROOT / "docs" / "cli"
    shared = (directory / "README.md").read_text(encoding="utf-8")
    texts = (page.read_text(encoding="utf-8") for page in directory.glob("[a-z]*.md"))
    parts = (part for text in texts for part in text.split("\n## `")[1:])
    return {part.partition("`")[0]: shared + part for part in parts}


def test_commands_options_and_recipes_exist_and_the_reference_has_the_options() -> None:
    described = commands_described()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    targets |= {f"test-{name}" for name in re.findall(r"^(\w+)_tests :=", makefile, flags=re.MULTILINE)}
    program: Any = typer.main.get_command(app)
    context = typer.Context(program, info_name="pe")
    adapt(program, context)
    for page in PAGES:
        for words in commands(page.read_text(encoding="utf-8")):
            words = words[: words.index("|")] if "|" in words else words  # of a pipe, the first
            command, rest, path = program, words[1:], "pe"
            if words[0] == "make":
                assert rest[0] in targets, f"{page}: {' '.join(words)}"
                continue
            while hasattr(command, "list_commands") and rest and rest[0] in command.list_commands(context):
                command, rest, path = command.get_command(context, rest[0]), rest[1:], f"{path} {rest[0]}"
            assert command is not program, f"{page}: {' '.join(words)}"
            if hasattr(command, "list_commands"):
                continue
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            named = {word for word in rest if re.fullmatch(r"--?[a-z][\w-]*", word)} - {"--help", "--help-all"}
            assert named <= known, f"{page}: {' '.join(words)}"
            lines = re.findall(r"^(?:- `|Also: ).*", described[path], flags=re.MULTILINE)
            shown = {name for line in lines for name in re.findall(r"(?<![\w-])--?[a-z0][\w-]*", line)}
            assert named <= shown, f"{page}: docs/cli does not have {named - shown} of {path}"
            if words[1] == "train" and rest and re.fullmatch(r"[a-z]\w+", rest[0]):
                assert rest[0] in pe.list_recipes(), f"{page}: {' '.join(words)}"


def test_settings_exist_in_some_recipe() -> None:
    for page in PAGES:
        for setting in set(re.findall(r"--set [\"']?([a-z][\w.]*)=", page.read_text(encoding="utf-8"))) - {"name"}:
            assert any(has_setting(recipe, setting) for recipe in pe.list_recipes()), f"{page}: {setting}"


def has_setting(recipe: str, name: str) -> bool:
    try:
        configure(recipe, [f"{name}=x"])
    except ConfigError as error:
        return "no setting is called" not in str(error) and "is not a setting" not in str(error)
    return True


def test_the_functions_that_the_architecture_page_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = sorted(set(re.findall(r"`([\w/]+)\.py::([\w.]+)`", text)))
    assert len(named) >= 40
    for module, name in named:
        operator.attrgetter(name)(importlib.import_module(f"perception_encoder.{module.replace('/', '.')}"))


def quickstart() -> str:
    return (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")


def test_output_in_the_quickstart_is_what_the_commands_print(
    run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words and ranks are equal; scores and probabilities may differ as much as between two kinds of CPU."""
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output, "console", Console(width=100, force_terminal=True, color_system=None))
    assert run_pe("demo").status == 0
    (block,) = re.findall(r"^```console\n(.*?)^```", quickstart(), flags=re.DOTALL | re.MULTILINE)
    session = re.findall(r"^\$ pe (.*)\n((?:[^$].*\n)*)", block, flags=re.MULTILINE)
    assert len(session) == 3
    for command, expected in session:
        run = run_pe(*shlex.split(command))
        assert run.status == 0, run.stderr
        for line, expected_line in zip(run.stdout.splitlines(), expected.splitlines(), strict=True):
            for word, expected_word in zip(line.split(), expected_line.split(), strict=True):
                assert word == expected_word or number(word) == pytest.approx(number(expected_word), abs=0.02), line


def number(word: str) -> float:
    """A score, or a percentage as a share."""
    return float(word.rstrip("%,")) / (100 if "%" in word else 1)


def model_rows() -> list[str]:
    """The rows of the quickstart's table: sizes, published scores, and speeds measured or scaled by FLOPs per image."""
    results = ROOT / "docs" / "results"
    towers = json.loads((results / "encode.json").read_text(encoding="utf-8"))["towers"]
    built_in = json.loads((results / "int8.json").read_text(encoding="utf-8"))["methods"]["models"]["PE-Core-N16-128"]
    narrow = median(built_in["static, as the package does it"]["speeds"])
    speeds = f"{median(built_in['bfloat16']['speeds']):.0f} ({narrow:.0f})"
    rows = [f"| `builtin`, offline demo | in the package | {speeds} | – | – | – |"]
    for name in ("PE-Core-T16-384", "PE-Core-S16-384", "PE-Core-B16-224", "PE-Core-L14-336", "PE-Core-G14-448"):
        entry, measured = find_model(name), name if f"{name}:image" in towers else "PE-Core-L14-336"
        ratio = tower_part(find_model(measured).vision).forward / tower_part(entry.vision).forward
        medians = [
            ratio * median(towers[f"{measured}:image"]["speeds"][f"perception-encoder, OpenVINO, {precision}"])
            for precision in ("bfloat16", "int8")
        ]
        exact, narrow = (float(f"{speed:.2g}") for speed in medians)
        scores = [f"{entry.published[key]:.1f}" for key in ("imagenet", "kinetics400", "coco")]
        speeds = f"{'' if measured == name else '≈'}{exact:g} ({narrow:g})"
        rows.append(f"| {' | '.join([name, f'{entry.download_bytes / 1e9:.2g} GB', speeds, *scores])} |")
    return rows


def test_models_of_the_quickstart_have_their_sizes_speeds_and_scores() -> None:
    table = [line for line in quickstart().splitlines() if line.startswith(("| `builtin`", "| PE-Core"))]
    assert table == model_rows()


@pytest.mark.timeout(900)  # three minutes without mypy's cache, on a busy machine
def test_python_of_some_pages_passes_a_strict_type_checker(tmp_path: Path) -> None:
    """As a user's editor checks it: strictly, with the installed package and none of this project's settings."""
    for page in TYPED:
        parts = page.read_text(encoding="utf-8").split("\n## `")  # of the reference, the hand-written part comes first
        code = [IMPORTS if len(parts) > 1 else ""]
        for number, part in enumerate(parts):
            for block in re.findall(r"^```python\n(.*?)^```", part, flags=re.DOTALL | re.MULTILINE):
                code.append(f"def example_{len(code)}() -> None:\n{indent(block, '    ')}" if number else block)
        (tmp_path / f"{page.stem}.py").write_text("\n".join(code), encoding="utf-8")
    (tmp_path / "keywords.py").write_text(KEYWORDS, encoding="utf-8")
    cache = f"--cache-dir={ROOT / '.mypy_cache' / 'pages'}"
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", cache, "."]
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_paper_map_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.(?:py|md|json))`", text)
    assert named
    for name in named:
        assert any((base / name).is_file() for base in (ROOT, ROOT / "perception_encoder")), name


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {pe.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["cli", "api"])
def test_generated_reference_is_current(name: str, tmp_path: Path) -> None:
    if name == "api":
        pytest.importorskip("griffe", reason="griffelib is not installed; install the extra docs")
    script = f"docs/{'command' if name == 'cli' else name}_reference.py"
    subprocess.run([sys.executable, script, tmp_path], cwd=ROOT, check=True, capture_output=True)
    pages = (ROOT / "docs" / name, tmp_path)
    kept, made = ({page.name: page.read_text(encoding="utf-8") for page in place.glob("*.md")} for place in pages)
    assert made == kept, f"run: python {script}"


def test_the_page_of_models_is_current(tmp_path: Path) -> None:
    """With the registry, the results in JSON, and the published scores."""
    made, kept = tmp_path / "models.md", ROOT / "docs" / "models.md"
    subprocess.run([sys.executable, "-m", "docs.model_page", made], cwd=ROOT, check=True, capture_output=True)
    assert made.read_text(encoding="utf-8") == kept.read_text(encoding="utf-8"), "run: python -m docs.model_page"


def test_links_of_the_reference_lead_to_the_name_in_their_text() -> None:
    """To the heading of that name, in the module that a dotted name says; a plain word is a method of its own class."""
    places = {name: where for page in (ROOT / "docs" / "api").glob("*.md") for name, where in described(page).items()}
    for page in (ROOT / "docs" / "api").glob("*.md"):
        owner = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            owner = re.sub(r"^##+ `(\w+).*|.*", r"\1", line) or owner
            for name, target, anchor in re.findall(r"\[`([\w.]+)`\]\(([\w.]*)#([^)]*)\)", line):
                linked = page.with_name(target or page.name)
                title = headings(linked)[anchor].strip("`")
                if re.fullmatch("[a-z]+", name):
                    assert (linked, title) == (page, f"{owner}.{name}"), f"{page.name}: {name} -> {target}#{anchor}"
                elif name in places:
                    assert (linked, anchor) == places[name], f"{page.name}: {name} -> {target}#{anchor}"
                else:
                    assert title in (name, f"{owner}.{name}"), f"{page.name}: {name} -> {target}#{anchor}"


def described(page: Path) -> dict[str, tuple[Path, str]]:
    """The page and anchor of each function and class of a page of the reference, by its path in Python."""
    found, public = {}, "pe.errors" if page.stem == "errors" else "pe"
    texts = re.split(r"^#+ .*$", without_code(page), flags=re.MULTILINE)[1:]
    for (anchor, title), text in zip(headings(page).items(), texts, strict=True):
        if name := re.fullmatch(r"`((?:evaluate\.)?\w+)`", title):
            module = re.match(r"\s*In `(.*)`\.", text)
            found[f"{module[1] if module else public}.{name[1]}"] = (page, anchor)
    return found


def test_the_reference_has_every_public_name_on_both_hosts(site: Path) -> None:
    """As a heading in Markdown, which a code host makes an anchor, and as an anchor of the site."""
    public = {name for name in pe.__all__ if name not in ("__version__", "errors")}
    public |= {name for name in vars(pe.errors) if name.endswith("Error")}
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    html = "".join(page.read_text(encoding="utf-8") for page in (site / "api").rglob("*.html"))
    assert {name for name in public if f"\n## `{name}`\n" not in pages or f'id="{name.lower()}"' not in html} == set()


def test_the_reference_has_no_other_names_than_public_ones_and_what_they_return_or_take() -> None:
    """With every argument: those that calls share are not hidden behind a name."""
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("[a-z]*.md"))
    assert "Unpack[" not in text
    public = {*pe.__all__, *vars(pe.errors), *(f"evaluate.{task}" for task in pe.evaluate.tasks)}
    others = set(re.findall(r"^## `([\w.]+)`$", text, flags=re.MULTILINE)) - public
    typed = "\n".join(re.findall(r"^```py\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    typed += "\n".join(re.findall(r"^- `(\w+: .*?)`(?::|$)", text, flags=re.MULTILINE))
    typed += "\n".join(re.findall(r"^`\w+` is `.*$", text, flags=re.MULTILINE))
    assert others
    assert {name for name in others if not re.search(rf"(?<!class )\b{name}\b(?!\()", typed)} == set()


def test_lists_and_tables_of_every_page_are_rendered_on_the_site(site: Path) -> None:
    """Python-Markdown, unlike GitHub, wants an empty line before a list or a table."""
    for page in site.rglob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            assert not re.search(r"^\s*(?:[-*] |\d+\. |\||```)", paragraph, flags=re.MULTILINE), (page.name, paragraph)


def test_the_site_sends_no_request_elsewhere(site: Path) -> None:
    """Neither fonts, scripts and styles of other hosts, nor the theme's look-up of the repository's stars."""
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert re.findall(r'\bsrc="https?:[^"]*"|<link[^>]+stylesheet[^>]+"https?:[^>]*>', html) == [], page.name
        assert 'data-md-component="source"' not in html, page.name
