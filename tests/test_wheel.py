"""The wheel works where nothing but it and its dependencies is installed; wheel and sdist hold what they should."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.drawings import write_drawing


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from it."""
    for name in ("build", "hatchling"):
        pytest.importorskip(name, reason=f"{name} is not installed; install the extra dev")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    process = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return out


@pytest.fixture(scope="module")
def environment(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; its dependencies come from the running interpreter's, by a line in a .pth file.

    A directory in a .pth file does not have its own .pth files read, so an editable install there does not count.
    """
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, symlinks=True, with_pip=False)
    python = directory / "bin" / "python"
    wheel = next(distributions.glob("*.whl"))
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    (packages,) = directory.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return directory


def run_in(environment: Path, cwd: Path, program: str, *arguments: str | Path) -> str:
    """Run a program of an environment without this checkout on its path; returns what it printed."""
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(environment / "bin" / program), *map(str, arguments)]
    process = subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_installed_wheel_searches_with_the_built_in_model(environment: Path, tmp_path: Path) -> None:
    where = "import perception_encoder; print(perception_encoder.__file__)"
    assert Path(run_in(environment, tmp_path, "python", "-c", where).strip()).is_relative_to(environment)
    for name in ("heart", "rose", "sun", "tree"):
        write_drawing(name, tmp_path / "images" / f"{name}.png")
    printed = json.loads(run_in(environment, tmp_path, "pe", "search", "a red rose", tmp_path / "images", "--json"))
    (query,) = printed["queries"]
    assert len(query["hits"]) == 4 and Path(query["hits"][0]["path"]).stem == "rose"


def test_the_wheel_holds_the_package_and_its_data_alone(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "perception_encoder").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == package
    assert {"perception_encoder/py.typed", "perception_encoder/weights/builtin.safetensors"} <= package
    assert {"css", "js", "html", "gz"} <= {name.rpartition(".")[2] for name in names}


def test_the_sdist_holds_the_sources_without_heavy_results(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        sizes = {member.name.partition("/")[2]: member.size for member in tar if member.isfile()}
    assert {"pyproject.toml", "README.md", "mkdocs.yml", "tests/test_wheel.py", "docs/index.md"} <= sizes.keys()
    heavy = {name for name, size in sizes.items() if size > 2_000_000}
    weights = {
        f"perception_encoder/weights/{path.name}"
        for path in (ROOT / "perception_encoder" / "weights").glob("*.safetensors")
    }
    assert heavy <= weights <= sizes.keys() and sum(sizes[name] for name in weights) <= 90_000_000
