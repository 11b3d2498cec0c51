"""Texts of strangers: what reads them takes time in proportion to their length."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perception_encoder.data.conversation_records import Record, parse_record
from perception_encoder.errors import ConfigError, UrlRefusedError, one_line
from perception_encoder.evaluation.language.answers import extract_choice, parse_box
from perception_encoder.preprocess.fetch import fetch
from perception_encoder.search.terms import parse_lines, parse_words, text_query
from perception_encoder.video_dataset.annotation.progress import word_similarity

N = 20_000


def search(text: str) -> None:
    """A query of the page, the command and the call, which have one limit."""
    for parse in (lambda: parse_lines([f"text:{text}"], None), lambda: parse_words([text]), lambda: text_query(text)):
        with pytest.raises(ConfigError, match="the query has a text of 20,002"):
            parse()


def converse(text: str) -> None:
    """A question about an image."""
    turns = [{"from": "human", "value": f"<image>a{text}b"}, {"from": "gpt", "value": "c"}]
    parse_record(Record("a record", "0", {"conversations": turns, "image": "a.png"}), Path())


def refuse_user(text: str) -> None:
    """An address with a password."""
    with pytest.raises(UrlRefusedError, match=r"//…@host"):
        fetch(f"http://user:word@host/{text}")


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (search, f"a{' ' * N}a"),
        (lambda text: text_query(f"a{text}a"), " " * 9_000),
        (lambda text: parse_lines([f"text:a{text}a"], None), " " * 9_000),
        (converse, "\n" * N),
        (refuse_user, "/" * 3 * N),
        (lambda text: one_line(ValueError(text)), " " * N),
        (lambda text: one_line(ValueError(text)), "/" * N),
        (parse_box, f"1{' ' * N}a"),
        (parse_box, "1" * N),
        (lambda text: extract_choice(text, ["a cat", "a dog"]), f"answer{' ' * N}1"),
        (lambda text: word_similarity(text, text.replace("x x", "x y")), "x " * (N // 2)),
        (lambda text: word_similarity(text, text), " ".join(map(str, range(N // 5)))),
    ],
)
def test_a_long_text_is_read_in_linear_time(read: Callable[[str], object], text: str) -> None:
    start = time.process_time()  # not the clock: other processes may have the cores
    read(text)
    assert time.process_time() - start < 1.0


def test_similar_words_are_a_longest_common_subsequence() -> None:
    first, second = ["a", "red", "boat", "on", "a", "lake"], ["red", "a", "boat", "a", "lake", "on"]
    lengths = [[0] * (len(second) + 1)]
    for word in first:
        row = [0]
        for at, other in enumerate(second):
            row.append(lengths[-1][at] + 1 if word == other else max(row[-1], lengths[-1][at + 1]))
        lengths.append(row)
    assert word_similarity(" ".join(first), " ".join(second)) == 2 * lengths[-1][-1] / 12
