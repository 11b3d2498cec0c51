"""`pe eval page`: write the Markdown page of a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli.evaluate.options import ResultFile
from perception_encoder.cli.options import option


def page(
    result: ResultFile,
    card: Annotated[Path | None, option("Model card whose results are updated as well.", "FILE")] = None,
) -> None:
    """Write the Markdown page of a result.

    The page is written next to the JSON.

    Examples:

        pe eval page docs/results/builtin.json
        pe eval page docs/results/builtin.json --card perception_encoder/weights/MODEL_CARD.md
    """
    from perception_encoder.evaluation import report
    from perception_encoder.files import write_text
    from perception_encoder.pretraining.builtin.targets import targets_of

    results = report.from_json(report.read_text(result), result.name)
    targets = targets_of(results)
    write_text(result.with_suffix(".md"), report.page(results, result.name, targets))
    if card is not None:
        write_text(card, report.update_card(report.read_text(card), results, targets))
