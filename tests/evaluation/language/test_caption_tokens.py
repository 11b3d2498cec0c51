"""The words of captions are those of Stanford's PTBTokenizer with pycocoevalcap's list of punctuation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from perception_encoder.evaluation.language.captions import tokenize_caption

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
