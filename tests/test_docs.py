"""The documents say what is true: links lead somewhere, commands exist, generated pages are current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import perception_encoder as pe
from perception_encoder.cli.main import VERBS
from perception_encoder.models.registry import canonical_name, find_model

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "examples/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
SAYING = ["README.md", "perception_encoder/weights/MODEL_CARD.md", "perception_encoder/cli/demo.py"]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built strictly: a page outside the navigation or a link that leads nowhere is an error."""
    for module in ("material", "mkdocs", "mkdocstrings", "mkdocstrings_handlers.python"):
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
    return [line.split() for line in lines if re.match(r"(?:make|pe) [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for program, name, *_ in commands(page.read_text(encoding="utf-8")):
        assert name in (targets if program == "make" else VERBS), f"{program} {name}"


def test_examples_ask_for_sizes_of_whole_patches() -> None:
    lines = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").splitlines()
    asked = [line.split() for line in lines if line.strip().startswith("pe ") and " --size " in line]
    found = [(name, words[words.index("--size") + 1]) for words in asked for name in filter(canonical_name, words)]
    assert found
    for name, size in found:
        patch = find_model(name).vision.patch_size
        assert not any(int(side) % patch for side in size.split("x")), f"{name} --size {size}"


def test_readme_says_how_to_begin_in_its_first_screen() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    assert ["make", "demo"] in [command[:2] for command in commands(first_screen)]
    assert ["make", "test"] in [command[:2] for command in commands(first_screen)]


def test_python_of_the_first_pages_passes_a_strict_type_checker(tmp_path: Path) -> None:
    """As a user's editor checks it: strictly, with the installed package and none of this project's settings."""
    for page in (ROOT / "README.md", ROOT / "docs" / "quickstart.md"):
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        assert blocks
        (tmp_path / f"{page.stem}.py").write_text("\n".join(blocks), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "."]
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_readme_tree_has_a_line_for_each_folder() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = [path.parent for path in (ROOT / "perception_encoder").glob("*/__init__.py")]
    folders += [ROOT / name for name in ("tests", "docs", "benchmarks") if (ROOT / name).is_dir()]
    missing = [folder.name for folder in folders if not re.search(rf"^\W*{folder.name}/ +\S", readme, re.MULTILINE)]
    assert missing == []


def test_paper_map_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.(?:py|md|json))`", text)
    assert named
    for name in named:
        assert any((base / name).is_file() for base in (ROOT, ROOT / "perception_encoder")), name


def test_command_reference_is_current(tmp_path: Path) -> None:
    made = tmp_path / "cli.md"
    command = [sys.executable, "-m", "typer", "perception_encoder.cli.main", "utils", "docs", "--name", "pe"]
    subprocess.run([*command, "--title", "The pe command", "--output", made], cwd=ROOT, check=True, capture_output=True)
    assert made.read_text(encoding="utf-8") == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "run make docs"


@pytest.mark.parametrize("page", SAYING)
def test_what_the_built_in_model_knows_is_said(page: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert "knows flowers, clothes, groceries, Caltech's objects and emoji, and little else" in text
    assert "1,000 photographs of ImageNet's classes" in text and "0.7 % among 1,000 names" in text


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_no_page_installs_from_an_index_that_has_no_such_package(page: Path) -> None:
    installs = re.findall(r"pip install [^\n`]*", page.read_text(encoding="utf-8"))
    assert [line for line in installs if "perception-encoder" in line] == []


def test_the_site_has_every_public_name(site: Path) -> None:
    reference = "".join(page.read_text(encoding="utf-8") for page in (site / "api").rglob("*.html"))
    public = {f"perception_encoder.{name}" for name in pe.__all__ if name not in ("__version__", "errors")}
    public |= {f"perception_encoder.errors.{name}" for name in vars(pe.errors) if name.endswith("Error")}
    assert {name for name in public if f'id="{name}"' not in reference} == set()


def test_links_of_the_site_that_leave_docs_lead_to_the_repository(site: Path) -> None:
    repository = "https://github.com/perception-encoder/perception-encoder"
    front = (site / "index.html").read_text(encoding="utf-8")
    assert f'href="{repository}/blob/main/perception_encoder/weights/MODEL_CARD.md"' in front
    assert f'href="{repository}/tree/main/examples"' in (site / "examples" / "index.html").read_text(encoding="utf-8")
    card = f'href="{repository}/blob/main/perception_encoder/weights/MODEL_CARD.md"'
    assert card in (site / "results" / "index.html").read_text(encoding="utf-8")  # from ../../
    assert not (site / "results" / "towers").exists()


def test_lists_and_tables_of_every_page_are_rendered_on_the_site(site: Path) -> None:
    """Python-Markdown, unlike GitHub, wants an empty line before a list or a table."""
    for page in site.rglob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            assert not re.search(r"^\s*(?:[-*] |\d+\. |\||```)", paragraph, flags=re.MULTILINE), (page.name, paragraph)
