"""Write the card of an exported directory: README.md with licence, scores and a program to run, and SHA256SUMS."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from perception_encoder.files import checksum, write_text
from perception_encoder.models.registry import MODELS, SCORES, canonical_name

README, SUMS = "README.md", "SHA256SUMS"
_CARD = """\
---
license: {tag}
library_name: {library}
tags:
- perception-encoder
---

# {title}

{about}

Written by perception-encoder from weights {weights}. Licence of the weights: {licence}.

{scores}

`sha256sum -c SHA256SUMS` checks the files. The program needs {packages}; run it in this directory, with an image.jpg.

```python
{program}```
"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the card of a directory says."""

    title: str
    library: str
    """The hub's name of the library that reads the directory."""
    about: str
    """What the files hold."""
    weights: str
    """Hash of the weights, and their type."""
    licence: str
    packages: str
    program: str
    """A program that reads the directory that it runs in."""
    scores: dict[str, float] = field(default_factory=dict)
    """Known scores of these weights, by name."""


def write_card(directory: Path, card: Card) -> None:
    """Write README.md, and SHA256SUMS of all files in the directory."""
    rows = [f"| {name} | {value:.4g} |" for name, value in card.scores.items()]
    table = "\n".join(["| score | value |", "|---|---|", *rows])
    text = _CARD.format(
        tag="apache-2.0" if card.licence == "Apache-2.0" else "other",
        library=card.library,
        title=card.title,
        about=card.about,
        weights=card.weights,
        licence=card.licence,
        scores=table if rows else "No scores of these weights are known; `pe eval` evaluates a model.",
        packages=card.packages,
        program=card.program,
    )
    write_text(directory / README, text)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / SUMS)
    write_text(directory / SUMS, "".join(f"{checksum(path)}  {path.relative_to(directory)}\n" for path in files))


def published_scores(source: str | Path) -> dict[str, float]:
    """Return the published scores of a model given by name; none for a file, whose weights may be others."""
    name = None if Path(source).exists() else canonical_name(str(source))
    scores = {} if name is None else MODELS[name].published
    return {f"{SCORES[key]}, percent (published)": value for key, value in scores.items()}
