"""`python -m experiments.recipe`: the ablation of section 2.1 in small."""

from __future__ import annotations

from pathlib import Path

from experiments.command_line import (
    TOWERS,
    Drawings,
    Jobs,
    Out,
    Photos,
    Runs,
    Towers,
    announce,
    print_metrics,
    run_experiment,
)


def recipe(
    photos: Photos,
    drawings: Drawings,
    runs: Runs = Path("runs/recipe"),
    towers: Towers = TOWERS,
    out: Out = Path("recipe.json"),
    jobs: Jobs = 2,
) -> None:
    """Repeat the ablation of section 2.1 in small.

    Train with steps 1, 1-5, 1-7 and 1-9, two seeds each, at equal FLOPs (two hours on 2 cores). An interrupted run
    resumes from its last checkpoint; a run that the JSON has is not repeated.

    Examples:

        python -m synthetic.drawings datasets
        python -m experiments.recipe --photos photos --drawings datasets
    """
    from experiments.recipe.run import reproduce_recipe
    from experiments.reproduction import Paths
    from perception_encoder.cli.output import track

    paths = Paths(photos=photos, drawings=drawings, runs=runs, result=out)
    reproduce_recipe(paths, towers=towers, track=track, listener=print_metrics, jobs=jobs)
    announce(out)


if __name__ == "__main__":
    run_experiment("recipe", recipe)
