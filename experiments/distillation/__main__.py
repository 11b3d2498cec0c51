"""`python -m experiments.distillation`: the distillation of section 2.4 in small."""

from __future__ import annotations

from pathlib import Path

from experiments.command_line import Drawings, Jobs, Out, Photos, Runs, announce, print_metrics, run_experiment


def distillation(
    photos: Photos,
    drawings: Drawings,
    runs: Runs = Path("runs/distillation"),
    out: Out = Path("distillation.json"),
    jobs: Jobs = 2,
) -> None:
    """Repeat the distillation of section 2.4 in small.

    Train a teacher, and a student with and without it, three seeds each (two hours on 2 cores). An interrupted run
    resumes from its last checkpoint; a run that the JSON has is not repeated.

    Examples:

        python -m synthetic.drawings datasets
        python -m experiments.distillation --photos photos --drawings datasets
    """
    from experiments.distillation.run import reproduce_distillation
    from experiments.reproduction import Paths
    from perception_encoder.cli.output import track

    paths = Paths(photos=photos, drawings=drawings, runs=runs, result=out)
    reproduce_distillation(paths, track=track, listener=print_metrics, jobs=jobs)
    announce(out)


if __name__ == "__main__":
    run_experiment("distillation", distillation)
