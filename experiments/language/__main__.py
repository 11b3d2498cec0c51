"""`python -m experiments.language`: table 9 and figure 13 of the paper in small."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from experiments.command_line import Out, Runs, announce, run_experiment
from perception_encoder.cli.options import option


def language(
    scenes: Annotated[Path, option("Rendered scenes, train and test.", "DIR")],
    runs: Runs = Path("runs/language"),
    out: Out = Path("language.json"),
) -> None:
    """Repeat table 9 and figure 13 in small.

    Which layers of the built-in encoder a small language model can read, before and after language alignment (two and a
    half hours on 2 cores). A stopped run resumes if the command is repeated.

    Examples:

        python -m synthetic.scenes -o scenes --count 12000
        python -m synthetic.scenes -o new --count 1000 --seed 77 && mv new/train scenes/test
        python -m experiments.language --scenes scenes -o docs/results/language.json
    """
    from experiments.language.run import reproduce_language
    from perception_encoder.cli.output import track

    reproduce_language(out, runs, scenes, track=track)
    announce(out)


if __name__ == "__main__":
    run_experiment("language", language)
