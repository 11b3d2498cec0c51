"""Tables of classification and retrieval."""

from __future__ import annotations

from synthetic.report import Table, classification_table, retrieval_table, summary
from tests.evaluation.test_report import RESULT


def test_accuracies_stand_beside_chance_and_probe() -> None:
    table = classification_table(RESULT)
    assert table.columns == ("task", "classes", "chance", "squash", "crop", "linear probe")
    assert table.rows == (
        ("flowers", "4", "25.0", "73.0 ±1.5", "83.0 ±1.5", "81.2 ±1.5"),
        ("clothing", "4", "25.0", "39.9 ±1.5", "10.0 ±1.5", "–"),
        ("caltech101/unseen", "4", "25.0", "20.0 ±1.5", "10.0 ±1.5", "–"),
    )


def test_retrieval_stands_beside_chance() -> None:
    assert retrieval_table(RESULT).rows == (("openmoji", "image by name R@1", "500", "0.20", "25.0 ±5.0"),)


def test_a_summary_has_both_tables_and_what_is_left_out() -> None:
    wider = Table(("task", "x"), (("flowers", "1|2"),)), retrieval_table(RESULT)
    assert "| flowers | 1/2 |" in summary(RESULT, wider)
    text = summary(RESULT)
    assert classification_table(RESULT).markdown() in text and "- flowers-7: cannot be decoded" in text
