"""The names that `import perception_encoder` offers, and what that import costs."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import perception_encoder as pe
from perception_encoder import errors

PAGES = Path(__file__).parent.parent / "docs" / "api"
REFERENCE = "".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_surface_is_small_and_sorted() -> None:
    assert len(pe.__all__) <= 80
    assert pe.__all__ == sorted(pe.__all__)
    assert dir(pe) == pe.__all__


def test_every_name_resolves_and_is_documented() -> None:
    assert [name for name in pe.__all__ if name != "__version__" and not inspect.getdoc(getattr(pe, name))] == []


def described(call: Any) -> tuple[set[str], set[str]]:
    """The sections of a docstring, and the names under `Args:`."""
    doc = inspect.getdoc(call) or ""
    parts = re.split(r"^(Args|Returns|Yields|Raises|Examples):\n", doc, flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    entries = re.findall(r"^    ([\w*, ]+): ", sections.get("Args", ""), flags=re.MULTILINE)
    return set(sections), {name.lstrip("*") for entry in entries for name in entry.split(", ")}


def to_describe(call: Any) -> set[str]:
    """The parameters of a call, but for those that show its progress: the reference says so from their type."""
    parameters = inspect.signature(call).parameters
    return {name for name, item in parameters.items() if name != "self" and item.annotation != "Track"}


@pytest.mark.parametrize("name", [name for name in pe.__all__ if inspect.isfunction(getattr(pe, name))])
def test_public_functions_describe_arguments_and_result_and_show_an_example(name: str) -> None:
    """The result is that of `Returns:`, or a class of the reference, or what the first line returns or lists."""
    call = getattr(pe, name)
    sections, arguments = described(call)
    assert arguments == to_describe(call)
    assert "Examples" in sections
    result = str(inspect.signature(call).return_annotation)
    if result != "None" and not sections & {"Returns", "Yields"}:
        classes = any(f"\n## `{part}`\n" in REFERENCE for part in re.findall(r"\w+", result))
        assert classes or re.search(r"\breturn\b|^List\b", inspect.getdoc(call).splitlines()[0], flags=re.IGNORECASE)


@pytest.mark.parametrize("name", [name for name in pe.__all__ if inspect.isclass(getattr(pe, name))])
def test_methods_of_the_reference_describe_their_arguments(name: str) -> None:
    """Of methods with several arguments, all, or the docstring names the method that has the same."""
    for method in re.findall(rf"^### `{name}\.(\w+)`$", REFERENCE, flags=re.MULTILINE):
        call = getattr(getattr(pe, name), method)
        sections, arguments = described(call)
        if "Args" in sections:
            assert arguments == to_describe(call), method
        elif len(to_describe(call)) > 2:
            others = re.findall(r"`(\w+)`", inspect.getdoc(call))
            assert any(hasattr(getattr(pe, name), other) for other in others), method


def described_with(call: Any) -> set[str]:
    """The arguments that a task of `pe.evaluate` describes, with those of the tasks whose arguments it says it has."""
    others = re.findall(r"arguments are(?: those)? of `(\w+)`", " ".join((inspect.getdoc(call) or "").split()))
    return described(call)[1].union(*(described_with(getattr(pe.evaluate, other)) for other in others))


@pytest.mark.parametrize("task", pe.evaluate.tasks)
def test_evaluations_describe_their_arguments_and_show_an_example(task: str) -> None:
    call = pe.evaluate.tasks[task]
    sections, arguments = described(call)
    assert arguments <= to_describe(call) <= described_with(call)
    assert "Examples" in sections


def test_an_unknown_name_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(
        AttributeError, match="'serve'; did you mean serve_annotations, serve_api, serve_immich, serve_search"
    ):
        pe.serve  # noqa: B018
    with pytest.raises(AttributeError, match="'open_indx'; did you mean open_index"):
        pe.open_indx  # noqa: B018
    assert not hasattr(pe, "zzz")


def test_import_is_quick_and_brings_no_torch() -> None:
    measure = "import time; t = time.process_time(); import perception_encoder; print(time.process_time() - t)"
    assert min(float(run_python(measure)) for _ in range(3)) < 0.2
    heavy = "import sys, perception_encoder; print([m for m in ('torch', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    assert run_python(heavy) == "[]"


ERRORS = [value for value in vars(errors).values() if inspect.isclass(value)]


def test_errors_cross_process_borders() -> None:
    for error in ERRORS:
        assert issubclass(error, errors.PerceptionEncoderError) and error.__doc__
        takes_two = issubclass(error, (errors.InputError, errors.MissingExtraError))
        original = error("a", "b") if takes_two else error("a")
        copy = pickle.loads(pickle.dumps(original))
        assert type(copy) is error and str(copy) == str(original)
