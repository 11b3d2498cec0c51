"""`pe eval compare`: whether the difference between two results is real."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output

app = typer.Typer()

Shown = Annotated[Path, typer.Argument(help="JSON file that a command of `pe eval` wrote with -o.")]


@app.command()
def compare(first: Shown, second: Shown) -> None:
    """Say of each figure that two results share whether the difference is real.

    The items are drawn anew a thousand times, the same for both models; a difference is called real where its 95 %
    interval leaves out zero. Both must have been measured on the same items. Of twenty figures that do not differ, one
    is called so by chance.

    Examples:

        pe eval compare builtin.json PE-Core-B16-224.json
    """
    from perception_encoder.evaluation.comparison import compare as find_differences
    from perception_encoder.evaluation.report import comparison_table, from_json, read_text

    ours, theirs = (from_json(read_text(path), path.name) for path in (first, second))
    differences = find_differences(ours, theirs)
    names = (ours.model, theirs.model) if ours.model != theirs.model else (first.stem, second.stem)
    table = comparison_table(differences, names)
    output.print_table(table.columns, table.rows, title=f"{names[0]} less {names[1]}")
