"""Numbers of the README and the guides are those of the registry and of the JSON files of docs/results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed_tables import best_float, best_peer, median_rates
from experiments.findings import GAPS, all_gaps
from perception_encoder.models.registry import find_listed
from tests.test_docs import PAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FINDING = [ROOT / name for name in ("README.md", "docs/index.md", "docs/spatial.md", "docs/results/paper_in_small.md")]
SIZES = {"T16": "PE-Core-T16-384", "S16": "PE-Core-S16-384", "B16": "PE-Core-B16-224", "L14": "PE-Core-L14-336"}


def read_result(name: str) -> Any:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def speed_rows() -> list[list[str]]:
    """The rows of the README's table of speed, without marks of earlier runs."""
    section = README.partition("\n## Speed\n")[2].partition("\n## ")[0].replace("†", "")
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def ratios(job: str) -> list[list[float]]:
    """In bfloat16 and in int8, of each model that a row names in brackets, ours over the best peer's."""
    models = [SIZES[size] for size in re.findall(r"\b[TSBL]\d\d\b", job)]
    run = "encode_amx" if "AMX" in job else "encode"
    kind = next((kind for kind in ("text", "caption") if kind in job), "single" if "one at a time" in job else "image")
    rates = [median_rates(read_result(run)["towers"][f"{model}:{kind}"]) for model in models]
    int8 = "perception-encoder, OpenVINO, int8"
    return [
        [best_float(one) / one[best_peer(one)] for one in rates],
        [one[int8] / one[best_peer(one)] for one in rates if int8 in one],
    ]


@pytest.mark.parametrize("row", speed_rows(), ids=lambda row: row[0][:40])
def test_ratios_of_speed_in_the_readme_are_measured(row: list[str]) -> None:
    """A cell is the lowest and the highest of the models, with two digits; int8 says which has none."""
    job, *cells = row
    assert [cell.partition(", not ")[0] for cell in cells] == [
        " to ".join(dict.fromkeys(f"{end:.2g}" for end in (min(column), max(column)))) for column in ratios(job)
    ]


def test_the_readme_has_ratios_of_speed() -> None:
    assert len(speed_rows()) >= 3


def rounded(value: float, like: str) -> str:
    """A number in percent, with as many digits after the point as another."""
    return f"{100 * value:.{len(like.partition('.')[2])}f}"


def test_gains_in_the_paper_in_small_are_measured() -> None:
    """Each is a difference of the experiments, with its interval if it has one."""
    found = all_gaps({name: read_result(name) for name in GAPS})
    gaps = [gap for gap in found.values() if gap.unit == "%"]
    gained = found["spatial", "segmentation", "aligned to both", "last"].value
    checked = 0
    for page in FINDING:
        text = " ".join(page.read_text(encoding="utf-8").partition("<!-- table")[0].split())
        for value, low, high in re.findall(r"([\d.]+\d|\d+) points \(([\d.]+) to ([\d.]+)\)", text):
            ends = [(gap.value, *(gap.interval or ())) for gap in gaps]
            assert any((value, low, high) == tuple(map(rounded, end, (value, low, high))) for end in ends), (
                page,
                value,
            )
            checked += 1
        for value in re.findall(r"(?<!paper )gains (\d+\.\d)", text):
            assert value == rounded(gained, value), page
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sizes_of_downloads_are_those_of_the_registry(page: Path) -> None:
    """Of `NAME downloads 1.2 GB`, `NAME (1.2 GB)`, and of commands that choose a model."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    names = r"(?:facebook/)?(PE-(?:Core|Lang|Spatial)-\w+-\d+|Perception-LM-\dB)"
    for name, size in re.findall(rf"{names}`? (?:downloads |\(|is |# download it once \()+([\d.]+) GB", text):
        stored = find_listed(f"facebook/{name}" if name.startswith("Perception") else name).download_bytes
        assert stored and f"{stored / 1e9:.2g}" == size, f"{name}: {size} GB"


def test_parity_is_one_part_in_a_million() -> None:
    errors = [row["values"] for row in read_result("parity")["rows"] if row["oracle"] == "reference"]
    assert errors
    assert max(errors) <= 1e-6
    assert "one part in a million" in " ".join(README.split()) or "1e-6" in README


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_the_number_of_notebooks_is_right(name: str) -> None:
    count = len(list((ROOT / "examples").glob("*.ipynb")))
    words = ("four", "five", "six", "seven", "eight")
    named = re.findall(
        rf"\b({'|'.join(words)})\b \[?notebooks", (ROOT / name).read_text(encoding="utf-8"), re.IGNORECASE
    )
    assert [words.index(word.lower()) + 4 for word in named] == [count] * len(named)
