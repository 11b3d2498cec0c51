"""`python -m experiments.builtin`: write the built-in model's results into its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from experiments.command_line import run_experiment
from perception_encoder.cli.options import argument


def builtin(
    result: Annotated[Path, argument("FILE", "JSON that `python -m synthetic.suite builtin` wrote with -o.")],
    card: Annotated[Path, argument("CARD", "Model card to update.")],
) -> None:
    """Write the built-in model's results, with its targets, into its card.

    Examples:

        python -m synthetic.suite builtin --photos photos --drawings datasets -o docs/results/builtin.json
        python -m experiments.builtin docs/results/builtin.json perception_encoder/weights/MODEL_CARD.md
    """
    from experiments.builtin.card import update_card
    from perception_encoder.evaluation.results import from_json, read_text
    from perception_encoder.files import write_text

    write_text(card, update_card(read_text(card), from_json(read_text(result), result.name)))


if __name__ == "__main__":
    run_experiment("builtin", builtin)
