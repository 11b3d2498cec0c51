"""`pe eval page`: write the Markdown page of a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli.evaluate.options import ResultFile
from perception_encoder.errors import ConfigError


def page(
    result: ResultFile,
    card: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Write the Markdown page of a result.

    The page is written next to the JSON.

    Examples:

        pe eval page knn.json
    """
    from perception_encoder.evaluation import report
    from perception_encoder.files import write_text

    if card is not None:
        raise ConfigError(f"--card is gone: run python -m experiments.builtin {result} --card {card}")
    content = report.from_json(report.read_text(result), result.name)
    write_text(result.with_suffix(".md"), report.page(content, result.name))
