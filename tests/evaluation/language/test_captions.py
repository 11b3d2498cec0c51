"""CIDEr-D and BLEU on words, and their bad input; test_parity.py compares them with pycocoevalcap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.language.captions import bleu, bleu_counts, bleu_of_counts, cider_d, cider_d_scores

REFERENCES = [["a cat sits on a mat"], ["two dogs play ball"], ["a red car on a street"]]


def test_the_reference_itself_scores_ten() -> None:
    scores = cider_d_scores([reference[0] for reference in REFERENCES], REFERENCES)
    assert scores == pytest.approx([10, 10, 10])
    assert cider_d(["x", *(reference[0] for reference in REFERENCES[1:])], REFERENCES) == pytest.approx(20 / 3)


def test_words_may_be_given_as_they_are() -> None:
    texts = ["A cat sits on a mat!", "two dogs", "car"]
    words = [["a", "cat", "sits", "on", "a", "mat"], ["two", "dogs"], ["car"]]
    split = [[item.split() for item in reference] for reference in REFERENCES]
    assert (cider_d_scores(texts, REFERENCES) == cider_d_scores(words, split)).all()
    assert bleu(texts, REFERENCES) == bleu(words, split)


def test_a_single_image_has_no_weights() -> None:
    assert cider_d(["a cat"], [["a cat"]]) == 0


def test_other_lengths_cost() -> None:
    references = [["one two three four five six"], ["x y z"]]
    short, same = (
        cider_d_scores([text, "q"], references)[0] for text in ("one two three", "one two three four five six")
    )
    longer = cider_d_scores(["one two three four five six " * 3, "q"], references)[0]
    assert longer < same and short < same


def test_bleu_by_hand() -> None:
    values = bleu(["the the the cat"], [["the cat sat on it", "a the cat"]])
    assert values[0] == pytest.approx(2 / 4)  # clipped; of both lengths, 3 and 5, the shorter is as near
    assert values[1] == pytest.approx(math.sqrt(2 / 4 * 1 / 3))
    assert values[3] == pytest.approx(0, abs=1e-3)
    assert bleu(["the cat"], [["the cat sat on"]])[0] == pytest.approx(math.exp(1 - 4 / 2))
    assert bleu([""], [["the cat"]])[0] == 0


def test_bleu_of_resamples() -> None:
    counts = bleu_counts(["a cat sits", "two dogs play", "a car"], REFERENCES)
    times = np.array([(1, 1, 1), (3, 0, 0)])
    draws = bleu_of_counts(times @ counts)
    assert draws[0] == pytest.approx(bleu(["a cat sits", "two dogs play", "a car"], REFERENCES))
    assert draws[1] == pytest.approx(bleu(["a cat sits"] * 3, [REFERENCES[0]] * 3))


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "0 captions"),
        (["a"], [], "1 captions and the references of 0"),
        (["a"], [[]], "caption 1 are"),
        (["a"], ["a cat"], "caption 1 are 'a cat'"),
    ],
)
@pytest.mark.parametrize("scorer", [cider_d, bleu])
def test_bad_input(scorer, predictions: list[str], references: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        scorer(predictions, references)
