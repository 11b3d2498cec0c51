"""`pe eval compare`: test whether the difference between two results is significant."""

from __future__ import annotations

from perception_encoder.cli import output
from perception_encoder.cli.evaluate.options import ResultFile


def compare(first: ResultFile, second: ResultFile) -> None:
    """Compare two results, with intervals.

    For each score in both results: the difference and its 95 % interval, by a paired bootstrap over the items (1,000
    resamples). A model is called better if the p-value is at most 0.05 after Holm's correction for the number of scores
    compared. Both results must be of the same items.

    Examples:

        pe eval compare builtin.json PE-Core-B16-224.json
    """
    from perception_encoder.evaluation.comparison import compare as find_differences
    from perception_encoder.evaluation.report import comparison_table, from_json, read_text

    ours, theirs = (from_json(read_text(path), path.name) for path in (first, second))
    differences = find_differences(ours, theirs)
    names = (ours.model, theirs.model) if ours.model != theirs.model else (first.stem, second.stem)
    table = comparison_table(differences, names)
    output.print_table(table.columns, table.rows, title=f"{names[0]} minus {names[1]}")
