"""Write docs/models.md: every model of the registry, with its size, licence, measured speed and published scores.

    python -m docs.model_page [FILE]

The text is in `PAGE`. Speeds come from docs/results, scores from the registry and from `benchmarks.published`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu_tables import gpu_tables
from benchmarks.published import PUBLISHED
from perception_encoder.models.registry import MODELS, OTHER_MODELS, SCORES, ListedModel, ModelEntry

DOCS = Path(__file__).parent
NONE = "–"
PRECISIONS = ("bfloat16", "int8")
NOTE = "<!-- Written by python -m docs.model_page, where the text is too. -->"
PAGE = """\
# Models

{note}

Every encoder, language model and head that `pe models` lists. `pe models use NAME` downloads one and makes it the
default of its kind; in Python, `pe.load("NAME")` and `pe.load_assistant("NAME")` load it. Which family to take: [PE,
SigLIP 2, DINOv3 or EUPE?](choose.md)

## Encoders

{encoders}

- **Parameters**: the image tower's, and after the plus the text tower's.
- **px**: the side of the square that an image becomes. **Dimensions**: an embedding's; in brackets a token's, of models
  without embeddings.
- **Memory**: the weights' in bfloat16; in float32 it is twice as much. Libraries, activations and media come on top.
- **Images a second**: with two CPU cores and the extra `fast`, in bfloat16 and, in brackets, int8; on an {plain} with
  AVX-512 and on an {amx} with AMX, in batches of 8 (L14: 2) ([how](results/speed.md#method)). A dash:
  not measured.
- **GPU**: images a second by default, on the card of [the benchmark](results/gpu.md).

## Language models and heads

{others}

The parameters of Perception-LM include its image tower. `noncommercial` is the FAIR Noncommercial Research License.

## Published scores

As published, in percent (CIDEr apart): nobody has run the published weights with this package. [Published
results](published_results.md) has sources, more scores, and the commands that measure them.

{scores}
"""
FAMILIES = {"Core": "PE-Core", "Lang": "PE-Lang", "Spatial": "PE-Spatial"}


def read_result(name: str) -> Any:
    """Return the content of docs/results/NAME.json."""
    return json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as a table in Markdown; the first is the heading."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * (lines[0].count("|") - 1) + "|", *lines[1:]])


def millions(count: float) -> str:
    """Return a number of parameters, such as 93.7 M or 1.88 B."""
    return f"{count / 1e9:.3g} B" if count >= 1e9 else f"{count / 1e6:.3g} M"


def gigabytes(size: float) -> str:
    """Return a size in bytes, such as 1.8 GB or 23 MB."""
    return f"{size / 1e9:.2g} GB" if size >= 1e8 else f"{size / 1e6:.2g} MB"


def download(model: ModelEntry | ListedModel) -> str:
    """Return the size of a model's file."""
    if model.download_bytes is None:
        return "by the file"
    return gigabytes(model.download_bytes) if model.download_bytes else "in the package"


def both(exact: float, narrow: float | None) -> str:
    """Return images a second in bfloat16 and, in brackets, int8, if that is faster."""
    shown = [f"{rate:.0f}" if rate >= 100 else f"{float(f'{rate:.2g}'):g}" for rate in (exact, narrow) if rate]
    return f"{shown[0]} ({shown[1]})" if narrow else shown[0]


def speed(name: str) -> str:
    """Return the images a second of a model without AMX."""
    if found := encoding_speed("encode", name):
        return found
    methods = read_result("int8")["methods"]["models"].get(name)
    if not methods:
        return NONE
    kinds = ("bfloat16", "static, as the package does it")
    return both(*(median(methods[kind]["speeds"]) for kind in kinds))


def encoding_speed(run: str, name: str) -> str | None:
    """Return the images a second of a model in a run of benchmarks.encode, if it has them."""
    if measured := read_result(run)["towers"].get(f"{name}:image"):
        exact, narrow = (measured["speeds"].get(f"perception-encoder, OpenVINO, {kind}") for kind in PRECISIONS)
        return both(median(exact), median(narrow) if narrow else None)
    return None


def speeds_on_a_gpu() -> dict[str, str]:
    """Return the images a second of Core models on a GPU, by size, of those measured."""
    if not (DOCS / "results" / "gpu.json").exists():
        return {}
    (_, *rows) = gpu_tables(read_result("gpu"))["Images"]
    return {row[0]: row[2] for row in rows if row[2] != NONE}


def encoders() -> Iterable[Sequence[str]]:
    """Yield the rows of the encoders."""
    yield (
        *("model", "for", "parameters", "px", "dimensions", "download", "memory"),
        *("images/s", "with AMX", "GPU", "licence"),
    )
    on_a_gpu = speeds_on_a_gpu()
    for entry in MODELS.values():
        text = 0 if entry.text is None else entry.text.parameters
        size = entry.vision.output_dim
        yield (
            f"`{entry.builtin}`" if entry.builtin else entry.name,
            entry.purpose,
            millions(entry.vision.parameters) + (f" + {millions(text)}" if text else ""),
            str(entry.vision.image_size),
            str(size) if size else f"({entry.vision.width})",
            download(entry),
            gigabytes(2 * (entry.vision.parameters + text)),
            speed(entry.name),
            encoding_speed("encode_amx", entry.name) or NONE,
            on_a_gpu.get(entry.name.removeprefix("PE-Core-"), "not yet"),
            entry.licence,
        )


def others() -> Iterable[Sequence[str]]:
    """Yield the rows of language models and heads."""
    yield ("model", "for", "parameters", "download", "licence")
    for model in OTHER_MODELS.values():
        weights = (model.download_bytes or 0) / 2 if "Perception-LM" in model.name else 0
        name = model.name if "/" in model.name else f"`{model.name}`"
        yield (name, model.purpose, millions(weights) if weights else NONE, download(model), model.licence)


def scores() -> Iterable[str]:
    """Yield a table of published scores for each family, and what its columns are."""
    for kind, title in FAMILIES.items():
        models = [entry for entry in MODELS.values() if f"-{kind}-" in entry.name and entry.published]
        names = [name for name in SCORES if any(name in entry.published for entry in models)]
        rows = [[entry.name, *(cell(entry.published.get(name)) for name in names)] for entry in models]
        yield f"### {title}\n\n" + table([["model", *names], *rows])
        yield meanings(names)
    results = [result for result in PUBLISHED if any("Perception-LM" in model for model in result.values)]
    rows = [
        [name, *(cell(result.values.get(name)) for result in results)]
        for name in OTHER_MODELS
        if any(name in result.values for result in results)
    ]
    names = [f"{result.dataset}, {result.metric}" for result in results]
    yield "### Perception-LM\n\n" + table([["model", *names], *rows])


def meanings(names: Sequence[str]) -> str:
    """Return what scores are, with what holds for all of them said once."""
    parts = {name: SCORES[name].partition(", ") for name in names}
    (common, *others) = {rest for _, _, rest in parts.values()}
    shown = {name: dataset if not others else SCORES[name] for name, (dataset, _, _) in parts.items()}
    return "; ".join(f"{name}: {text}" for name, text in shown.items()) + (f"; {common}." if not others else ".")


def cell(value: float | None) -> str:
    """Return a score."""
    return NONE if value is None else f"{value:.1f}"


def cpu(run: str) -> str:
    """Return the name of the CPU of a run of benchmarks.encode."""
    name: str = read_result(run)["towers"]["PE-Core-B16-224:image"]["machine"]["cpu"].partition(",")[0]
    return name.replace("(R)", "").removesuffix(" Processor")


def page() -> str:
    """Return the page."""
    return PAGE.format(
        note=NOTE,
        encoders=table(encoders()),
        plain=cpu("encode"),
        amx=cpu("encode_amx"),
        others=table(others()),
        scores="\n\n".join(scores()),
    )


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "models.md"
    target.write_text(page(), encoding="utf-8")
