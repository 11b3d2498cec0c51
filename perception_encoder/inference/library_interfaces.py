"""What other libraries call the methods of an `Encoder`, except `encode`.

Functions of sentence-transformers which take a model, such as `paraphrase_mining` and its evaluators, run on an
`Encoder`, and so does `mteb.evaluate(encoder, tasks)` with tasks of texts and images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.inference.media import Kind
from perception_encoder.vectors import unit_rows

Vectors = np.ndarray | Tensor | Sequence[np.ndarray] | Sequence[Tensor]

_SINGLE = (str, bytes, Path, Image.Image, np.ndarray, Mapping)


class _NoModelCard:
    """Where the library's evaluators leave their results; an `Encoder` has no model card, their caller gets them."""

    def set_evaluation_metrics(self, evaluator: object, metrics: dict[str, float], epoch: int, step: int) -> None: ...


class SentenceInterface:
    """sentence-transformers' names that do not depend on the model."""

    similarity_fn_name: Literal["cosine"] = "cosine"
    model_card_data = _NoModelCard()

    def similarity(self, a: Vectors, b: Vectors) -> Float[Tensor, "n m"]:
        """Cosine similarity of each vector of `a` (n, D) or (D,) with each of `b` (m, D) or (D,): float32 (n, m)."""
        return _unit(a) @ _unit(b).T

    def similarity_pairwise(self, a: Vectors, b: Vectors) -> Float[Tensor, " n"]:
        """Cosine similarity of `a[i]` with `b[i]`, of vectors (n, D) or (D,) each: float32 (n)."""
        return (_unit(a) * _unit(b)).sum(dim=-1)


def check_unsupported(name: str, precision: str | None, prompt: str | None, truncate_dim: int | None) -> None:
    """Raise ConfigError for values of sentence-transformers' arguments that a model, `name`, does not support."""
    if precision not in (None, "float32"):
        raise ConfigError(f"precision is {precision!r}; vectors are float32, quantise them afterwards")
    if prompt:
        raise ConfigError(f"prompt {prompt!r} is unsupported: {name} has no prompts; write it into the texts")
    if truncate_dim is not None and truncate_dim < 1:
        raise ConfigError(f"truncate_dim is {truncate_dim}; it must be at least 1")


def as_list(inputs: object) -> tuple[list[object], bool]:
    """Inputs as a list, and whether they were a single one outside a list."""
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "UTO":  # strings or objects, not pixels
        inputs = inputs.tolist()
    if isinstance(inputs, _SINGLE) or hasattr(inputs, "read") or not isinstance(inputs, Iterable):
        return [inputs], True
    return list(cast(Iterable[object], inputs)), False


def of_modality(value: object) -> tuple[object, Kind | None]:
    """An input and its kind, if it is one of sentence-transformers' dicts: {"image": …}, {"video": …}, {"text": …}.

    Raises ConfigError for a dict of several modalities, which have no joint embedding, and for other keys.
    """
    if not isinstance(value, Mapping):
        return value, None
    if len(value) != 1 or not value.keys() <= {*get_args(Kind)}:
        raise ConfigError(f"an input has the keys {list(value)}; a dict must have one of {', '.join(get_args(Kind))}")
    ((kind, content),) = value.items()
    return content, kind


def truncate(rows: np.ndarray, length: int, normalize: bool) -> np.ndarray:
    """The first `length` numbers of each row (…, D), made unit length again under `normalize`."""
    cut = np.ascontiguousarray(rows[..., :length])
    return unit_rows(cut) if normalize else cut


def _unit(vectors: Vectors) -> Tensor:
    """Vectors of any container as unit float32 rows (n, D)."""
    if isinstance(vectors, (np.ndarray, Tensor)):
        rows = torch.as_tensor(vectors)
    else:
        rows = torch.stack([torch.as_tensor(vector) for vector in vectors])
    return F.normalize(torch.atleast_2d(rows.float()), dim=-1)


def batch_inputs(batches: Iterable[Mapping[str, Sequence[object]]]) -> Iterator[list[object]]:
    """The inputs of each of mteb's batches, as dicts that say what they are; other columns, such as titles, are left.

    A batch has columns: {"text": [...], "title": [...]}. Inputs of several modalities stay together, so that
    `of_modality` refuses them. Only one batch of images is in memory at a time.
    """
    for batch in batches:
        columns = {key: batch[key] for key in (*get_args(Kind), "audio") if key in batch}
        yield [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def model_meta(encoder: Any) -> Any:
    """mteb's `ModelMeta` of an encoder.

    mteb caches results by name and revision, so the revision is of the weights and the number type.
    """
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    dtype = str(encoder.dtype).removeprefix("torch.")
    return ModelMeta.create_empty(
        {
            "name": f"perception-encoder/{encoder.name}",
            "revision": f"{encoder.weight_hash[:16]}-{dtype}",
            "modalities": ["image", "text"] if encoder.reads_texts else ["image"],
            "embed_dim": encoder.dimension,
            "n_parameters": sum(parameter.numel() for parameter in encoder.model.parameters()),
            "similarity_fn_name": ScoringFunction.COSINE,
            "framework": ["PyTorch"],
        }
    )
