"""Token ids: equal to the published ones, and to open_clip's on any text."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from perception_encoder.errors import ModelError
from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.preprocess.tokenizer import (
    END,
    START,
    Tokenizer,
    TruncationWarning,
    tokenizer,
    trim,
    write_preprocessing,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tokenizer.json").read_text(encoding="utf-8"))


@cache
def open_clip_tokenizer():
    return pytest.importorskip("open_clip.tokenizer").SimpleTokenizer(context_length=72)


@pytest.mark.parametrize("context_length", [32, 72])
@pytest.mark.filterwarnings("ignore::perception_encoder.preprocess.tokenizer.TruncationWarning")
def test_golden_ids(context_length: int) -> None:
    ids = Tokenizer(context_length)(GOLDEN["strings"])
    assert ids.dtype == torch.int64
    assert ids.tolist() == GOLDEN["ids"][str(context_length)]


def letters_and_marks():
    """Characters that every Unicode version of the last ten years agrees on, with those that ftfy and HTML touch."""
    text = st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF, exclude_categories=["Cn", "Co", "Cs"]))
    tricky = "'S 'll &amp;amp; &lt; &#8217; â€™ Ã© ſ \u212a İ ﬁ １ a\u0301 👩\u200d👧 東京 한국 <p> “"
    pieces = st.sampled_from(
        [*tricky.split(" "), "<|endoftext|>", "_", "12", "²", "Ⅷ", "\u0345", " \t\r\n", "\u00a0", "\x85", "\x1b[0m"]
    )
    return st.lists(st.one_of(text, pieces), max_size=12).map("".join)


@given(letters_and_marks())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_ids_equal_open_clips(text: str) -> None:
    ours, theirs = Tokenizer(72, warns=False), open_clip_tokenizer()
    assert torch.equal(ours(text), theirs([text])) and ours.encode(text) == theirs.encode(text)


def test_a_control_token_cannot_be_written_in_a_text() -> None:
    ids = Tokenizer(32)("<start_of_text> a dog <end_of_text>")[0].tolist()
    assert (ids.count(START), ids.count(END)) == (1, 1)


def test_a_long_text_is_cut_with_a_warning_that_names_it() -> None:
    text = "a striped cat asleep on a wall " * 20
    with pytest.warns(TruncationWarning, match="text of 142 tokens cut to 32") as warned:
        ids = Tokenizer(32)([text, "a dog"])
    assert (ids[0, 0], ids[0, -1]) == (START, END)
    assert warned[0].filename == __file__
    assert len(warned) == 1


def test_tokenizer_of_a_model() -> None:
    model = SimpleNamespace(text=SimpleNamespace(config=SimpleNamespace(context_length=72)))
    assert tokenizer(model) == tokenizer(SimpleNamespace(model=model)) == Tokenizer(72)  # an encoder holds its model
    with pytest.raises(ModelError, match="PE-Spatial-B16-512"):
        tokenizer(SimpleNamespace(name="PE-Spatial-B16-512"))


def test_trim_keeps_the_longest_text() -> None:
    for convert in (Tokenizer(32), Tokenizer(32).ids):
        ids = convert(["a dog", "a photo of a cat", ""])
        trimmed = trim(ids)
        assert trimmed.shape == (3, 7)
        assert (trimmed == ids[:, :7]).all() and not ids[:, 7:].any()
        assert trim(convert([])).shape == (0, 32)


TEXTS = ["a red mug", "  Two   DOGS\n\ton a lawn, isn't it? 12:30 #1!", "", "naïve café 日本語 🐶", "word " * 99]


def test_ids_are_those_of_our_tokenizer(tmp_path: Path) -> None:
    write_preprocessing(tmp_path, (32, 48), 32)
    loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = torch.tensor([row.ids for row in loaded.encode_batch(TEXTS)])
    assert torch.equal(ids, Tokenizer(32, warns=False)(TEXTS))


def test_pixels_are_those_of_our_transform(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_preprocessing(tmp_path, (32, 48), None)
    assert [path.name for path in tmp_path.iterdir()] == ["preprocessor_config.json"]
    image = Image.effect_noise((100, 70), 90).convert("L")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    ours = ImageTransform((32, 48))(image)
    assert theirs.shape == ours.shape == (3, 32, 48)
    assert float(np.abs(theirs.numpy() - ours.numpy()).max()) < 0.02
