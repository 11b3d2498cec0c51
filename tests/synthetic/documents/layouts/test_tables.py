"""Tables: answers recomputed from the header and the rows."""

from __future__ import annotations

import re

import pytest

SPLITS = ("train", "test")


def answer_to(question: str, task: str, header: list[str], rows: list[list[str]]) -> str:
    """The answer by looking it up in the table."""
    columns = {name.lower(): [row[number] for row in rows] for number, name in enumerate(header)}
    keys = [row[0] for row in rows]
    if task == "count":
        return str(len(rows) if "rows" in question else len(header))
    if match := re.fullmatch(r"What is the (.+?) of (.+)\?", question):
        return columns[match[1]][keys.index(match[2])]
    if match := re.fullmatch(r"Which \w+ has the (highest|lowest) (\w+)\?", question):
        values = [int(value) for value in columns[match[2]]]
        extreme = max(values) if match[1] == "highest" else min(values)
        assert values.count(extreme) == 1
        return keys[values.index(extreme)]
    if match := re.fullmatch(r"Which \w+ has the (\w+) (.+)\?", question):
        assert columns[match[1]].count(match[2]) == 1
        return keys[columns[match[1]].index(match[2])]
    if match := re.fullmatch(r"Is the (\w+) of (.+) higher than that of (.+)\?", question):
        first, second = (int(columns[match[1]][keys.index(match[number])]) for number in (2, 3))
        return "yes" if first > second else "no"
    match = re.fullmatch(r"Is (.+) in the table\?", question)
    return "yes" if match[1] in keys else "no"


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_those_of_the_table(draw_many, split: str) -> None:
    seen = set()
    for drawn in draw_many("table", split):
        header, rows = drawn.content["header"], drawn.content["rows"]
        assert " ".join(word.text for word in drawn.words) == " ".join([*header, *(" ".join(row) for row in rows)])
        for question, answer, _, task in drawn.questions:
            assert answer == answer_to(question, task, header, rows)
            seen.add(task)
    assert seen == {"cell", "row", "compare", "count", "yes_no"}
