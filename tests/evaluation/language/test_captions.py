"""Words of captions, CIDEr-D and BLEU; test_parity.py compares them with pycocoevalcap."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.evaluation.language.captions import (
    bleu_counts,
    bleu_of_counts,
    cider_d_scores,
    tokenize_caption,
)


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    return bleu_of_counts(bleu_counts(predictions, references).sum(axis=0))


REFERENCES = [["a cat sits on a mat"], ["two dogs play ball"], ["a red car on a street"]]


def test_the_reference_itself_scores_ten() -> None:
    scores = cider_d_scores([reference[0] for reference in REFERENCES], REFERENCES)
    assert scores == pytest.approx([10, 10, 10])
    scores = cider_d_scores(["x", *(reference[0] for reference in REFERENCES[1:])], REFERENCES)
    assert scores.mean() == pytest.approx(20 / 3)


def test_a_single_image_has_no_weights() -> None:
    assert cider_d_scores(["a cat"], [["a cat"]]) == 0


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


GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "caption_tokens.json").read_text(encoding="utf-8"))


def test_the_words_are_those_of_the_java_program() -> None:
    for caption in GOLDEN["captions"]:
        assert tokenize_caption(caption["text"]) == caption["words"], caption["text"]


def test_captions_with_marks_put_into_them_have_almost_always_the_words_of_the_java_program() -> None:
    equal = sum(tokenize_caption(caption["text"]) == caption["words"] for caption in GOLDEN["random"])
    assert len(GOLDEN["random"]) == 200 and equal >= 194  # the 97 % of the docstring


def test_words_stay_themselves() -> None:
    words = tokenize_caption("The man's dog isn't here; it sits on a well-known mat, e.g. St. Bernard's.")
    assert words[:7] == ["the", "man", "'s", "dog", "is", "n't", "here"]
    assert tokenize_caption(" ".join(words)) == words


def test_real_captions_have_the_words_of_the_java_program(real_data: Path, tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    captions = json.loads((real_data / "coco" / "annotations.json").read_text(encoding="utf-8"))["captions"]
    texts = [text for caption in captions.values() for text in caption]
    java = tokenizer.PTBTokenizer().tokenize({row: [{"caption": text}] for row, text in enumerate(texts)})
    assert len(java) == 425
    assert [tokenize_caption(text) for text in texts] == [java[row][0].split() for row in range(len(texts))]
