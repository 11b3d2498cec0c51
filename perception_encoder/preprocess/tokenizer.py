"""Convert text to token ids with CLIP's byte-pair vocabulary, 49,408 entries (appendix B.1).

The rows read start token, text, end token, zeros. The control tokens cannot be written in a text: "<end_of_text>" is
three words and some punctuation.
"""

from __future__ import annotations

import gzip
import html
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from perception_encoder.errors import ModelError
from perception_encoder.files import write_json, write_text

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

Tokens = TypeVar("Tokens", np.ndarray, "Tensor")

START, END = 49406, 49407
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\u0345]+"
"""A contraction, a run of letters, one digit, or a run of anything else; U+0345 is dropped, as the published
pattern does (folded it is a letter, by category a combining mark, so neither class takes it)."""


class TruncationWarning(UserWarning):
    """A text exceeded the model's context and was truncated."""


@dataclass(frozen=True)
class Tokenizer:
    """Converts texts to token ids for a model that reads `context_length` tokens."""

    context_length: int = 32
    warns: bool = True
    """Warn if a text is truncated; off in training, which reads millions of captions."""

    def __call__(self, texts: str | Iterable[str]) -> Int[Tensor, "B T"]:
        """Return ids (B, context_length), int64; a text that is too long is truncated, with a warning."""
        import torch

        return torch.from_numpy(self.ids(texts))

    def ids(self, texts: str | Iterable[str]) -> Int[np.ndarray, "B T"]:
        """Tokenize as a call does, into an array; this needs no torch."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = np.zeros((len(texts), self.context_length), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [START, *self.encode(text), END]
            if len(ids) > self.context_length:
                if self.warns:
                    message = f"text of {len(ids)} tokens cut to {self.context_length}: {text[:60]!r}"
                    warnings.warn(message, TruncationWarning, stacklevel=3)
                ids = [*ids[: self.context_length - 1], END]
            row[: len(ids)] = ids
        return rows

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text, of any length, without control tokens."""
        return _backend().encode(clean(text)).ids


def tokenizer(model: object) -> Tokenizer:
    """Return the tokenizer for a model's text tower.

    Args:
        model: A model in torch, or an `Encoder`.

    Raises:
        ModelError: The model has no text tower.

    Examples:
        >>> tokens = pe.tokenizer(model)(["a red mug", "a dog"])  # (2, T)
    """
    tower: Any = getattr(getattr(model, "model", model), "text", None)
    if tower is None:
        name = getattr(model, "name", type(model).__name__)
        raise ModelError(f"{name}, as it was loaded, has no text tower; for texts, use a Core model with both towers")
    return Tokenizer(tower.config.context_length)


def trim(tokens: Tokens) -> Tokens:
    """Drop the columns of ids (B, T) that are padding in every row; a causal tower's outputs do not change."""
    if not len(tokens):
        return tokens
    return tokens[:, : int(tokens.argmax(1).max()) + 1]


def clean(text: str) -> str:
    """Clean a text as published: ftfy, HTML entities twice, runs of whitespace to one space, lower case."""
    if not (text.isascii() and text.isprintable() and "&" not in text):  # else ftfy and HTML change nothing
        import ftfy  # takes 40 ms, which most searches save

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@cache
def _backend() -> tokenizers.Tokenizer:
    packed = files("perception_encoder.preprocess").joinpath("clip_merges.txt.gz").read_bytes()
    halves = gzip.decompress(packed).decode("utf-8").split()
    merges = list(zip(halves[::2], halves[1::2], strict=True))
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # a symbol for each byte: printable bytes first
    symbols = list(map(chr, [*printable, *range(256, 512 - len(printable))]))
    pieces = [*symbols, *(symbol + "</w>" for symbol in symbols), *(left + right for left, right in merges)]
    vocabulary = dict(zip(pieces, range(len(pieces)), strict=True))
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def portable_tokenizer(context_length: int) -> tokenizers.Tokenizer:
    """Return a tokenizer of the library `tokenizers` that pads and truncates, usable without this package.

    It only lowers case and normalizes whitespace; apply `clean` first for ftfy's repairs and HTML entities.
    """
    result = tokenizers.Tokenizer.from_str(_backend().to_str())
    start, end = "<start_of_text>", "<end_of_text>"
    result.add_special_tokens([tokenizers.AddedToken(item, special=True, normalized=False) for item in (start, end)])
    result.normalizer = normalizers.Sequence(
        [normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
    result.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", pair=f"{start} $A $B {end}", special_tokens=[(start, START), (end, END)]
    )
    result.enable_truncation(context_length)
    result.enable_padding(length=context_length, pad_id=0, pad_token="!")
    return result


def write_preprocessing(
    directory: Path, size: tuple[int, int], context_length: int | None, uint8: bool = False
) -> None:
    """Write files for transformers' image processors and the library `tokenizers` beside an exported model.

    `size`: height and width. `context_length`: None for no tokenizer. `uint8`: the model scales pixels itself.
    """
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size[0], "width": size[1]},
        "resample": 2,  # bilinear
        "do_center_crop": False,
        "do_rescale": not uint8,
        "rescale_factor": 1 / 255,
        "do_normalize": not uint8,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    write_json(directory / "preprocessor_config.json", preprocessing)
    if context_length is not None:
        write_text(directory / "tokenizer.json", portable_tokenizer(context_length).to_str())
