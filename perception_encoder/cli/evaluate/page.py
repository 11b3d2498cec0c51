"""`pe eval page`: write the Markdown page of a result."""

from __future__ import annotations

from perception_encoder.cli.evaluate.options import ResultFile


def page(result: ResultFile) -> None:
    """Write the Markdown page of a result.

    The page is written next to the JSON.

    Examples:

        pe eval page knn.json
    """
    from perception_encoder.evaluation import report
    from perception_encoder.files import write_text

    content = report.from_json(report.read_text(result), result.name)
    write_text(result.with_suffix(".md"), report.page(content, result.name))
