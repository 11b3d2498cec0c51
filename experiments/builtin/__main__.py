"""`python -m experiments.builtin`: the built-in model's page, and its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from experiments.command_line import run_experiment
from perception_encoder.cli.options import argument, option


def builtin(
    result: Annotated[Path, argument("FILE", "JSON that `python -m synthetic.suite builtin` wrote with -o.")],
    card: Annotated[Path | None, option("Model card whose results are updated as well.", "FILE")] = None,
) -> None:
    """Write the page of the built-in model's result, with its targets, next to the JSON.

    Examples:

        python -m synthetic.suite builtin --photos photos --drawings datasets -o docs/results/builtin.json
        python -m experiments.builtin docs/results/builtin.json --card perception_encoder/weights/MODEL_CARD.md
    """
    from experiments.builtin.page import page, update_card
    from perception_encoder.evaluation.report import from_json, read_text
    from perception_encoder.files import write_text

    read = from_json(read_text(result), result.name)
    write_text(result.with_suffix(".md"), page(read, result.name))
    if card is not None:
        write_text(card, update_card(read_text(card), read))


if __name__ == "__main__":
    run_experiment("builtin", builtin)
