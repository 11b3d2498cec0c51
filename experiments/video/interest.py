"""`python -m experiments.video.interest`: how well the interest score tells how much happens in a rendered video.

The number of events, an orbit of the camera among them, stands for a hand score: the forest is fitted on some
videos of `train` and ranks all others. Those of `test` have objects that are in no video of `train`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np

from experiments.command_line import Out, announce, run_experiment
from perception_encoder.cli.options import option
from perception_encoder.cli.output import track
from perception_encoder.datasets.pe_video import list_video_tars, read_video_tar
from perception_encoder.errors import DataError
from perception_encoder.evaluation.statistics.bootstrap import PERCENTILES, RESAMPLES
from perception_encoder.files import write_json
from perception_encoder.inference.load import load
from perception_encoder.video_dataset.features import FeatureTable, compute_features
from perception_encoder.video_dataset.selection import MAX_SCORE, score_videos
from perception_encoder.video_dataset.tables import table_key
from synthetic.video_dataset.truth import SceneTruth


def reproduce_interest(clips: Path, table: FeatureTable, scored: int) -> dict[str, Any]:
    """Fit on the number of events of the first `scored` videos of `train`; correlate the scores of the others with it.

    Raises DataError if no other videos are left.
    """
    events, orbits = {}, {}
    for tar in list_video_tars(clips):
        for record in read_video_tar(tar):
            truth = SceneTruth.of(record.metadata)
            events[table_key(record)] = min(MAX_SCORE, float(len(truth.events) + truth.orbits))
            orbits[table_key(record)] = truth.orbits
    hand = {key: events[key] for key in [key for key in table.keys if key.startswith("train/")][:scored]}
    scores, report = score_videos(table, hand)
    others = [row for row, key in enumerate(table.keys) if key not in hand]
    if not others:
        raise DataError(f"all {len(table)} videos are scored; none is left to evaluate on")
    keys, values = [table.keys[row] for row in others], scores[others]
    counts, moving = np.array([events[key] for key in keys]), np.array([orbits[key] for key in keys])
    unseen = np.array([key.startswith("test/") for key in keys])
    groups = {
        "all": np.ones(len(keys), bool),
        "the camera is still": ~moving,
        "the camera moves": moving,
        "objects of the training videos": ~unseen,
        "unseen objects": unseen,
    }
    rows = [{"videos": name, **_correlate(values[of], counts[of])} for name, of in groups.items() if of.sum() > 2]
    return {"rows": rows, "forest": report.to_dict()}


def _correlate(scores: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    from scipy.stats import bootstrap, spearmanr

    def correlation(one: np.ndarray, other: np.ndarray) -> float:
        return float(spearmanr(one, other).statistic)

    drawn = bootstrap(
        (scores, truth),
        correlation,
        n_resamples=RESAMPLES,
        confidence_level=(PERCENTILES[1] - PERCENTILES[0]) / 100,
        method="percentile",
        paired=True,
        vectorized=False,
        rng=np.random.default_rng(0),
    )
    interval = [float(end) for end in drawn.confidence_interval]
    return {"n": len(scores), "correlation": correlation(scores, truth), "interval": interval}


def interest(
    clips: Annotated[Path, option("Dataset of `python -m synthetic.video_dataset`.", "DIR")],
    features: Annotated[Path, option("Directory of features; missing ones are computed by the built-in model.", "DIR")],
    scored: Annotated[int, option("Videos of train that the forest is fitted on.", least=20)] = 1000,
    out: Out = Path("video_interest.json"),
) -> None:
    """Evaluate the interest score on rendered videos.

    Examples:

        python -m experiments.video.interest --clips clips --features features
    """
    table = compute_features(clips, features, load("builtin"), track=track)
    write_json(out, reproduce_interest(clips, table, scored))
    announce(out)


if __name__ == "__main__":
    run_experiment("video.interest", interest)
