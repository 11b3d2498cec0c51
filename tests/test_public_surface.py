"""The names that `import perception_encoder` offers, and what that import costs."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys

import pytest

import perception_encoder as pe
from perception_encoder import errors


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_surface_is_small_and_sorted() -> None:
    assert len(pe.__all__) <= 80
    assert pe.__all__ == sorted(pe.__all__)
    assert dir(pe) == pe.__all__


@pytest.mark.parametrize("name", pe.__all__)
def test_every_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(pe, name)
    assert name == "__version__" or inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="attribute nothing"):
        pe.nothing  # noqa: B018


def test_import_is_quick_and_brings_no_torch() -> None:
    measure = "import time; t = time.process_time(); import perception_encoder; print(time.process_time() - t)"
    assert min(float(run_python(measure)) for _ in range(3)) < 0.2
    heavy = "import sys, perception_encoder; print([m for m in ('torch', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    assert run_python(heavy) == "[]"


ERRORS = [value for value in vars(errors).values() if inspect.isclass(value)]


@pytest.mark.parametrize("error", ERRORS)
def test_errors_form_the_tree_that_is_drawn(error: type[Exception]) -> None:
    assert issubclass(error, errors.PerceptionEncoderError)
    assert error.__name__ in errors.__doc__
    assert error.__doc__


@pytest.mark.parametrize("error", ERRORS)
def test_errors_cross_process_borders(error: type[Exception]) -> None:
    takes_two = issubclass(error, (errors.InputError, errors.MissingExtraError))
    original = error("a", "b") if takes_two else error("a")
    copy = pickle.loads(pickle.dumps(original))
    assert type(copy) is error
    assert str(copy) == str(original)
