"""Two results compared: whether a difference is real, paired over the items and the seeds of fitted heads.

A difference is called real if its p-value is at most 0.05 after Holm's correction for the number of metrics that are
compared, and never without an interval. Of results that do not differ in any metric, one pair of twenty is then called
different in some metric; without the correction it would be one metric of twenty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from perception_encoder.errors import DataError
from perception_encoder.evaluation.results import Measurement, Result
from perception_encoder.evaluation.statistics.bootstrap import SIGNIFICANT, Metric, holm
from perception_encoder.evaluation.statistics.scores import as_difference, by_metric, estimate_difference


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two models."""

    measurement: Measurement
    """The first model's."""
    ours: Metric
    theirs: Metric
    difference: Metric
    """Ours less theirs."""
    p_value: float = 1.0
    """Corrected for the number of metrics that are compared."""

    @property
    def real(self) -> bool:
        """Whether the corrected p-value is small."""
        return self.p_value <= SIGNIFICANT

    @property
    def winner(self) -> int | None:
        """0 if the first model is better, 1 if the second is, None if the difference is not real."""
        if not self.real:
            return None
        return int((self.difference.value < 0) != self.difference.lower_is_better)


def compare(ours: Result, theirs: Result) -> list[Difference]:
    """Compare every metric that both results have with per-item scores.

    Raises DataError if there is none, and if the two were evaluated on other items.
    """
    known = {measurement.label: measurement for measurement in theirs.measurements}
    differences = [
        each
        for measurement in ours.measurements
        if (other := known.get(measurement.label))
        for each in _compare(measurement, other)
    ]
    if not differences:
        labels = [", ".join(filter(None, (m.measurements[0].label if m.measurements else ()))) for m in (ours, theirs)]
        raise DataError(
            f"the results share no metric with per-item scores (first: {labels[0] or 'none'}; "
            f"{labels[1] or 'none'}); evaluate both with the same task, data, transform and prompts"
        )
    corrected = holm([each.p_value for each in differences])
    return [replace(each, p_value=p) for each, p in zip(differences, corrected, strict=True)]


def _compare(ours: Measurement, theirs: Measurement) -> list[Difference]:
    others = by_metric(theirs.scores)
    values = [{metric.name: metric for metric in measurement.metrics} for measurement in (ours, theirs)]
    try:
        gaps = {
            name: (scores[0], estimate_difference(scores, others[name]))
            for name, scores in by_metric(ours.scores).items()
            if name in others
        }
    except DataError as error:
        raise DataError(f"{ours.task}, {ours.method}: {error}") from error
    return [
        Difference(
            measurement=ours,
            ours=values[0][name],
            theirs=values[1][name],
            difference=as_difference(first, gap),
            p_value=gap.p_value(),
        )
        for name, (first, gap) in gaps.items()
    ]
