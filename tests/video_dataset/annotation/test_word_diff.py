"""Word-level differences: what they say, and that they lead from one caption to the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.video_dataset.annotation.word_diff import (
    count_words,
    diff_words,
    surviving_words,
    word_similarity,
)

CAPTIONS = st.lists(st.sampled_from(["a", "red", "boat", "boat.", "drifts"]), max_size=12).map(" ".join)


def changes(original: str, caption: str) -> list[tuple[str, str]]:
    return [(run.change, " ".join(run.words)) for run in diff_words(original, caption)]


def test_words_are_removed_corrected_and_added() -> None:
    original, caption = "A blue car drives fast on a road", "A red car drives\non a road at night"
    assert changes(original, caption) == [
        ("same", "A"),
        ("removed", "blue"),
        ("added", "red"),
        ("same", "car drives"),
        ("removed", "fast"),
        ("same", "on a road"),
        ("added", "at night"),
    ]
    assert surviving_words(original, caption) == [True, False, True, True, False, True, True, True]
    assert count_words(caption) == 9


def test_equal_and_empty_captions() -> None:
    assert changes("a boat", " a\n boat ") == [("same", "a boat")]
    assert changes("", "") == [] and changes("", "a boat") == [("added", "a boat")]
    assert word_similarity("", "") == word_similarity("a b", "a b") == 1 and word_similarity("a b", "c d") == 0


@given(CAPTIONS, CAPTIONS)
def test_the_runs_lead_from_one_caption_to_the_other(original: str, caption: str) -> None:
    runs = diff_words(original, caption)
    before = [word for run in runs if run.change != "added" for word in run.words]
    after = [word for run in runs if run.change != "removed" for word in run.words]
    assert before == original.split() and after == caption.split()
    assert len(surviving_words(original, caption)) == len(before)
