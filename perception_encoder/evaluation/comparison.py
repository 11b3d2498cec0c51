"""Two results side by side: whether a difference is real, paired over the items and the seeds of fitted heads.

A difference is called real where its 95 % interval leaves out zero, and never without an interval. Of twenty figures
that do not differ, one will be called so by chance; the more figures are compared, the more the large differences only
should be believed.
"""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.errors import DataError
from perception_encoder.evaluation.results import Measurement, Result
from perception_encoder.evaluation.statistics.estimate import Metric
from perception_encoder.evaluation.statistics.scores import by_metric, difference


@dataclass(frozen=True)
class Difference:
    """One figure of two models."""

    measurement: Measurement
    """The first model's."""
    ours: Metric
    theirs: Metric
    difference: Metric
    """Ours less theirs."""

    @property
    def real(self) -> bool:
        """Whether there is an interval that leaves out zero."""
        ends = self.difference.ci
        return ends is not None and (ends[0] > 0 or ends[1] < 0)

    @property
    def winner(self) -> int | None:
        """0 where the first model is better, 1 where the second is, None where no difference is shown."""
        if not self.real:
            return None
        return int((self.difference.value < 0) != self.difference.lower_is_better)


def compare(ours: Result, theirs: Result) -> list[Difference]:
    """Every figure that both results have with their items' scores.

    Raises DataError where there is none, and where the two were measured on other items.
    """
    known = {m.label: m for m in theirs.measurements}
    found = []
    for measurement in ours.measurements:
        other = known.get(measurement.label)
        if other is not None:
            found += _compare(measurement, other)
    if not found:
        labels = [", ".join(filter(None, (m.measurements[0].label if m.measurements else ()))) for m in (ours, theirs)]
        raise DataError(
            f"the results share no figure with scores of its items (first: {labels[0] or 'none'}; "
            f"{labels[1] or 'none'}); measure both with the same task, data, transform and prompts"
        )
    return found


def _compare(ours: Measurement, theirs: Measurement) -> list[Difference]:
    others = by_metric(theirs.scores)
    values = [{metric.name: metric for metric in m.metrics} for m in (ours, theirs)]
    found = []
    for metric, scores in by_metric(ours.scores).items():
        if metric not in others:
            continue
        try:
            gap = difference(scores, others[metric])
        except DataError as error:
            raise DataError(f"{ours.task}, {ours.method}: {error}") from error
        found.append(Difference(ours, values[0][metric], values[1][metric], gap))
    return found
