"""The rules of the source tree: imports point down, only cli/ prints, loading is strict, random state is passed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
NAME = "perception_encoder"
OUTSIDE = {"synthetic", "experiments", "benchmarks", "examples", "tests"}
"""What lies beside the package and is not in the wheel."""

LAYERS = """
_version errors files progress ranks ray_cluster records transfer vectors
losses models preprocess
formats
store
runtime web_server words
data datasets training
conversation inference
dense_prediction
serving
evaluation search exports
search_page language_models
dense_training layer_analysis pretraining language_alignment spatial_alignment
video_dataset
video_data_engine
stages evaluations model_choice api
cli
"""
"""Directories and top-level modules, lowest first; a module imports from lower lines and its own directory only."""

DISTRIBUTIONS = {
    "PIL": "pillow",
    "open_clip": "open_clip_torch",
    "pybullet_data": "pybullet",
    "pybullet_utils": "pybullet",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Distributions whose import name is another."""

SOURCES = sorted((ROOT / NAME).rglob("*.py"))
ALL_SOURCES = [*SOURCES, *sorted((ROOT / "synthetic").rglob("*.py"))]
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))

NAMES_IMPORTED = 90
"""Maximum number of names of other packages that each one imports."""
ENCODERS = ("Encoder", "LayerFeatures")
"""Classes that are an encoder or the layers of one."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    return relative(path).removesuffix(".py").replace("/", ".")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module, module: str) -> Iterator[tuple[str, bool]]:
    """Yield every name that a module imports, and whether in a function or for types only."""

    def visit(node: ast.AST, deferred: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{source}.{alias.name}", deferred) for alias in node.names)
        deferred |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        deferred |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, deferred)

    yield from visit(tree, False)


def imported(path: Path) -> set[str]:
    return {name for name, _ in imports(parse(path), module_of(path))}


def wrong_imports(module: str, names: set[str]) -> list[str]:
    """Return those of a module's imports that point up or sideways, or out of the wheel."""
    layers = [line.split() for line in LAYERS.strip().splitlines()]
    level_of = {name: level for level, line in enumerate(layers) for name in line}
    top = module.split(".")[1]
    wrong = []
    for name in names:
        head, target, *_ = [*name.split("."), ""]
        if head == NAME and target != top:
            same = level_of.get(target) == level_of[top] and not (ROOT / NAME / target).is_dir()
            if not same and level_of.get(target, len(layers)) >= level_of[top]:
                wrong.append(name)
        elif head in OUTSIDE:
            wrong.append(name)
    return wrong


def cycles(graph: dict[str, set[str]]) -> Iterator[str]:
    """Yield the import cycles among the modules and sub-packages that lie directly in one directory."""

    def child(directory: str, name: str) -> str:
        return name.removeprefix(f"{directory}.").split(".")[0] if name.startswith(f"{directory}.") else ""

    directories = {
        ".".join(parts[:end]) for name in graph if (parts := name.split(".")) for end in range(1, len(parts))
    }
    for directory in sorted(directories):
        between: dict[str, set[str]] = {}
        for name, targets in graph.items():
            if source := child(directory, name):
                between.setdefault(source, set()).update({child(directory, target) for target in targets})
        try:
            TopologicalSorter({name: targets - {name, ""} for name, targets in between.items()}).prepare()
        except CycleError as error:
            yield f"{directory}: {' -> '.join(error.args[1])}"


def test_imports_point_down_without_cycles() -> None:
    """Deferred and type-checking imports count too."""
    assert list(cycles({"p.a.x": {"p.b.y"}, "p.b.y": set(), "p.b.z": {"p.a.x"}})), "the check sees no cycle"
    sources = [*ALL_SOURCES, *BENCHMARKS]
    graph = {module_of(path): imported(path) for path in sources if path != ROOT / NAME / "__main__.py"}
    assert list(cycles(graph)) == []
    wrong = {module: wrong_imports(module, names) for module, names in graph.items() if module.startswith(NAME)}
    assert {module: names for module, names in wrong.items() if names} == {}


def test_packages_import_few_names_of_each_other() -> None:
    """A walk's files are not counted: a trace enters every helper, which a reader passes by."""
    names: dict[str, set[str]] = {}
    for path in SOURCES:
        package = path.relative_to(ROOT / NAME).parts[0].removesuffix(".py")
        tops = {name: (*name.split("."), "")[1] for name in imported(path) if name.split(".")[0] == NAME}
        names.setdefault(package, set()).update(name for name, top in tops.items() if top not in (package, ""))
    counts = {package: len(found) for package, found in names.items()}
    assert {package: n for package, n in counts.items() if n > NAMES_IMPORTED} == {}


def test_public_names_are_given_once() -> None:
    """Outside cli, whose commands have their calls' names."""
    outside = [path for path in SOURCES if path.relative_to(ROOT / NAME).parts[0] != "cli"]
    nodes = [node for path in outside for node in parse(path).body if isinstance(node, DEFINITIONS)]
    overloads = [node for node in nodes if any("overload" in ast.unparse(item) for item in node.decorator_list)]
    counts = Counter(node.name for node in nodes if not node.name.startswith("_") and node not in overloads)
    assert {name: n for name, n in counts.items() if n > 1} == {}


def test_two_concepts_of_an_encoder() -> None:
    """Nothing inherits from them, and nothing copies a method of theirs."""
    methods = {"encode_images", "encode_videos", "encode_texts", "encode_layers"}
    found = [
        node.name
        for path in SOURCES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ClassDef)
        and (
            methods & {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            or {ast.unparse(base).rpartition(".")[2] for base in node.bases} & {"Encoder", "LayerFeatures"}
        )
    ]
    assert sorted(found) == sorted(ENCODERS)


def requirements() -> tuple[list[Requirement], list[Requirement], list[Requirement]]:
    """Return what is always installed, what only an extra brings, and what the repository's group brings."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    base, extras = table["project"]["dependencies"], table["project"]["optional-dependencies"].values()
    found = (base, list(chain(*extras)), table["dependency-groups"]["synthetic"])
    return tuple([Requirement(line) for line in lines] for lines in found)


def test_optional_dependencies_are_declared_and_imported_late() -> None:
    base, extras, group = ({canonicalize_name(requirement.name) for requirement in part} for part in requirements())
    for path in ALL_SOURCES:
        declared = base | extras | (set() if path in SOURCES else group)
        for module, deferred in imports(parse(path), module_of(path)):
            head = module.partition(".")[0]
            if head not in (NAME, "synthetic") and head not in sys.stdlib_module_names:
                distribution = canonicalize_name(DISTRIBUTIONS.get(head, head))
                assert distribution in declared, f"{path}: {module} is not a dependency in pyproject.toml"
                assert distribution in base or deferred, f"{path}: {module} comes with an extra: import it late"


@pytest.mark.parametrize(
    ("distribution", "fixed", "hole"),
    [
        ("starlette", "0.49.1", "CVE-2025-62727, and before it CVE-2025-54121 and CVE-2024-47874"),
        ("ray", "2.52.0", "CVE-2025-62593"),
    ],
)
def test_versions_with_known_holes_are_excluded(distribution: str, fixed: str, hole: str) -> None:
    found = [requirement for requirement in chain(*requirements()) if requirement.name == distribution]
    assert found
    for requirement in found:
        (floor,) = (Version(bound.version) for bound in requirement.specifier if bound.operator == ">=")
        assert floor >= Version(fixed), hole


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_only_the_command_line_prints() -> None:
    for path in ALL_SOURCES:
        if not relative(path).startswith(f"{NAME}/cli/"):
            assert not {name for name, _ in calls(path)} & {"print", "sys.stdout.write", "sys.stderr.write"}, path


def test_loading_is_strict_and_runs_no_code() -> None:
    for path, (name, call) in ((source, found) for source in ALL_SOURCES for found in calls(source)):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name.endswith("load_state_dict"):
            assert keywords.get("strict") != "False", path
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", path
        if re.fullmatch(r"(transformers\.)?Auto\w+\.from_(pretrained|config)", name):
            assert keywords.get("trust_remote_code") in ("False", "trust_remote_code", "self.trusted"), path


def test_json_is_read_in_one_place() -> None:
    """Only `parse_json` knows that deep nesting raises RecursionError."""
    for path in (ROOT / NAME).rglob("*.py"):
        for name, call in calls(path):
            copies = name == "json.loads" and ast.unparse(call.args[0]).startswith("json.dumps(")
            assert name not in ("json.loads", "json.load") or copies or path.name == "records.py", path


def test_no_global_random_state() -> None:
    seeders = {"torch.manual_seed", "torch.seed", "random.seed", "np.random.seed", "numpy.random.seed"}
    for path in ALL_SOURCES:
        assert not {name for name, _ in calls(path)} & seeders, path


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_nothing_depends_on_this_machine() -> None:
    foreign = re.compile(r"\.\./" + r"shared|(?<![\w.~/-])/(?:work|root)/")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".cff", ".html", ".json", ""}:
            assert name == ".ci/run" or not foreign.search(path.read_text(encoding="utf-8")), path


def test_every_test_belongs_to_a_capability_of_the_makefile() -> None:
    """`make test-search` runs what the Makefile lists: what is listed exists, and no directory is forgotten."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    lists = dict(re.findall(r"^(\w+_tests|SUITES) := (.+)$", text, flags=re.MULTILINE))
    named = {name for names in lists.values() for name in names.split() if name != "$(SUITES)"}
    tests = ROOT / "tests"
    for path in (tests / name for name in named):
        assert path.is_dir() or path.with_name(f"test_{path.name}.py").is_file(), path
    directories = {path.parent.relative_to(tests).parts[0] for path in tests.glob("*/**/test_*.py")}
    assert directories - {name.split("/")[0] for name in named} == set()
