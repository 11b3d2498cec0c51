"""The modules between a file or a query and its results don't import what is slow before they need it."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = (
    *("inference.sentence_transformer", "formats.listing", "preprocess.media", "inference.samples"),
    *("models.checkpoints.files", "models.checkpoints.find", "models.defaults", "models.precision", "models.registry"),
    *("preprocess.documents", "preprocess.image", "preprocess.tiling", "preprocess.tokenizer", "preprocess.video"),
    "search.terms",
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)


def test_no_module_on_the_way_imports_torch() -> None:
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module('perception_encoder.{name}')\nif 'torch' in sys.modules: sys.exit({name!r})\n"
        for name in MODULES
    )
    assert run(code).stderr == ""


def test_the_modules_of_a_search_import_no_tables_and_no_tools() -> None:
    """Arrow, and what jaxtyping imports, take as long as the rest of a search of an index."""
    pytest.importorskip("openvino")
    code = """
import sys
import perception_encoder.cli.search, perception_encoder.search.index, perception_encoder.runtime.openvino_towers
from perception_encoder.runtime.machine import check_openvino
check_openvino()
print(*{"torch", "pyarrow", "jaxtyping", "unittest", "asyncio"} & sys.modules.keys())
"""
    done = run(code)
    assert done.stdout == "\n", done.stderr


def test_pixels_tokens_and_weight_files_need_no_torch() -> None:
    code = """
import sys
from PIL import Image
from perception_encoder.models.checkpoints.find import find_weights
from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.preprocess.tokenizer import Tokenizer, trim
assert ImageTransform(32).pixels(Image.new("RGB", (64, 48))).shape == (3, 32, 32)
assert trim(Tokenizer(32).ids(["a dog"])).shape == (1, 4)
assert find_weights("builtin")[0].is_file()
print("torch" in sys.modules)
"""
    done = run(code)
    assert done.stdout == "False\n", done.stderr
