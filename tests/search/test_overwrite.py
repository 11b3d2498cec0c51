"""Nothing that exists is replaced unless `overwrite` is asked for: every call and every command that has it."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import perception_encoder as pe
from perception_encoder import cli
from perception_encoder.errors import OutputError
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.search.vector_stores import write_vectors
from tests.search.indexes import make_index

CALLS: dict[str, Callable[[Path, Path, Path], object]] = {
    "convert": lambda folder, model, out: pe.convert(model, out / "x.safetensors"),
    "embed": lambda folder, model, out: pe.embed(folder / "01.jpg", out / "x.parquet", model=model),
    "segment": lambda folder, model, out: pe.segment(folder / "01.jpg", out / "x.png", points=[(0.5, 0.5)]),
    "export_vectors": lambda folder, model, out: pe.open_index(folder).export_vectors(out / "x.parquet"),
    "export_vectors for a store": lambda folder, model, out: pe.open_index(folder).export_vectors(out, to="qdrant"),
    "write_vectors": lambda folder, model, out: write_vectors([make_index(folder, model)], out, "qdrant"),
    "EmbeddingWriter": lambda folder, model, out: EmbeddingWriter(out / "x.parquet", {}),
}
WORDS = {
    "convert": ("{model}", "{out}/x.safetensors"),
    "embed": ("{folder}/01.jpg", "-o", "{out}/x.parquet", "--model", "{model}"),
    "segment": ("{folder}/01.jpg", "--point", "0.5,0.5", "-o", "{out}/x.png"),
    "export vectors": ("{folder}", "{out}", "--to", "qdrant"),
}


def test_no_call_or_command_is_forgotten() -> None:
    def with_it(owner: object) -> set[str]:
        functions = inspect.getmembers(owner, inspect.isfunction)
        return {name for name, function in functions if "overwrite" in inspect.signature(function).parameters}

    assert with_it(pe) | with_it(pe.Index) <= set(CALLS)
    commands = [import_module(f"{cli.__name__}.{module.name}") for module in pkgutil.iter_modules(cli.__path__)]
    assert set().union(*map(with_it, commands)) == {name.split()[-1] for name in WORDS}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A directory with files of the names in a vector store's export, and of the others."""
    (tmp_path / "out").mkdir()
    for name in ("vectors.parquet", "load.py", "x.parquet", "x.safetensors", "x.png"):
        (tmp_path / "out" / name).write_text("mine")
    return tmp_path / "out"


@pytest.mark.parametrize("name", CALLS)
def test_a_call_replaces_nothing_unasked(name: str, pictures: list[Path], checkpoint: Path, out: Path) -> None:
    folder = pictures[0].parent
    make_index(folder, checkpoint)
    with pytest.raises(OutputError, match="exists"):
        CALLS[name](folder, checkpoint, only(out, name))
    assert {path.read_text() for path in out.iterdir()} == {"mine"}


@pytest.mark.parametrize("name", WORDS)
def test_a_command_replaces_nothing_unasked(
    name: str, run_pe, pictures: list[Path], checkpoint: Path, out: Path
) -> None:
    folder = pictures[0].parent
    make_index(folder, checkpoint)
    places = {"folder": folder, "model": checkpoint, "out": only(out, name)}
    run = run_pe(*name.split(), *(word.format(**places) for word in WORDS[name]))
    assert run.status == 2 and "exists" in run.stderr
    assert {path.read_text() for path in out.iterdir()} == {"mine"}


def only(out: Path, name: str) -> Path:
    """Leave what a vector store's export would replace."""
    for path in out.glob("x.*"):
        if name in ("export_vectors for a store", "write_vectors", "export vectors"):
            path.unlink()
    return out
