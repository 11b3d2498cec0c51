"""`encode` and its companions with the arguments that sentence-transformers gives them.

Functions of that library which take a model, such as `paraphrase_mining` and its evaluators, run on an `Encoder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.inference.progress_bar import progress_bar

Vectors = np.ndarray | Tensor | Sequence[np.ndarray] | Sequence[Tensor]

_SINGLE = (str, bytes, Path, Image.Image, np.ndarray)


class _NoModelCard:
    """Where the library's evaluators leave their results; an `Encoder` has no model card, their caller gets them."""

    def set_evaluation_metrics(self, evaluator: object, metrics: dict[str, float], epoch: int, step: int) -> None: ...


class SentenceInterface(ABC):
    """The part of an `Encoder` that has sentence-transformers' names."""

    device: torch.device
    name: str
    similarity_fn_name: Literal["cosine"] = "cosine"
    model_card_data = _NoModelCard()

    @property
    @abstractmethod
    def dimension(self) -> int: ...

    @abstractmethod
    def _encode_mixed(
        self,
        inputs: object,
        normalize: bool,
        layer: int | None,
        pool: str | None,
        frames: int,
        batch_size: int | None,
        skipped: dict[int, InputError] | None,
        progress: Callable[[int], object],
        device: str | torch.device | None,
    ) -> np.ndarray: ...

    @overload
    def encode(
        self,
        inputs: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        frames: int = 8,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        progress: Callable[[int], object] | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: Literal[True] = True,
        convert_to_tensor: Literal[False] = False,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        precision: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        device: str | torch.device | None = None,
    ) -> Float[np.ndarray, "*n D"]: ...

    @overload
    def encode(
        self,
        inputs: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        frames: int = 8,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        progress: Callable[[int], object] | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        precision: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        device: str | torch.device | None = None,
    ) -> np.ndarray | Tensor | list[Tensor]: ...

    def encode(
        self,
        inputs: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        frames: int = 8,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        progress: Callable[[int], object] | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        precision: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        device: str | torch.device | None = None,
    ) -> np.ndarray | Tensor | list[Tensor]:
        """Encode images, videos and texts in any mixture: float32 (n, D), rows in input order.

        Paths, strings of existing paths, URLs, bytes, PIL images and uint8 arrays (H, W), (H, W, 3) and (F, H, W, 3)
        are media. Any other string is a text, except that one with a media suffix and no such file is an error;
        `encode_texts` takes every string as a text. `inputs` may be a list, an array of strings or a pandas Series;
        a single input outside a list gives (D,).

        `normalize`, `layer`, `pool` and `frames` are those of `feature`; pool "tokens" gives (n, N, D), of videos
        (n, F, N, D). `batch_size`: images or texts computed at once, by default what fits the cache.
        `skipped`: a dict that makes bad inputs be skipped: they have no row, are logged, and stand in it as
        {index: error}; without it the first bad input raises its InputError. `progress` is called with the number of
        inputs done since its last call; `show_progress_bar` shows a bar on a terminal.

        sentence-transformers' arguments: `normalize_embeddings` overrides `normalize`. `convert_to_tensor` gives a
        tensor on the encoder's device; neither it nor `convert_to_numpy` gives a list of tensors. `truncate_dim` cuts
        vectors to that many numbers before they are normalised. `precision` must be "float32", `prompt` and
        `prompt_name` None, and `device` the encoder's own; ConfigError if not.
        """
        self._check_unsupported(precision, prompt or prompt_name, truncate_dim)
        normalize = normalize if normalize_embeddings is None else normalize_embeddings
        values, single = as_list(inputs)
        shown = progress_bar("encoding", len(values)) if show_progress_bar else nullcontext(lambda items: None)
        with shown as advance:

            def report(items: int) -> None:
                advance(items)
                if progress is not None:
                    progress(items)

            given = values[0] if single else values
            rows = self._encode_mixed(given, normalize, layer, pool, frames, batch_size, skipped, report, device)
        if truncate_dim is not None:
            rows = _truncated(rows, truncate_dim, normalize)
        if convert_to_numpy and not convert_to_tensor:
            return rows
        tensor = torch.from_numpy(rows).to(self.device)
        return tensor if single or convert_to_tensor else list(tensor)

    encode_query = encode_document = encode
    """The models have no prompts, so queries and documents are encoded alike."""

    def similarity(self, a: Vectors, b: Vectors) -> Float[Tensor, "n m"]:
        """Cosine similarity of each vector of `a` (n, D) or (D,) with each of `b` (m, D) or (D,): float32 (n, m)."""
        return _unit(a) @ _unit(b).T

    def similarity_pairwise(self, a: Vectors, b: Vectors) -> Float[Tensor, " n"]:
        """Cosine similarity of `a[i]` with `b[i]`, of vectors (n, D) or (D,) each: float32 (n)."""
        return (_unit(a) * _unit(b)).sum(dim=-1)

    def get_embedding_dimension(self) -> int:
        """`dimension`, under sentence-transformers' name."""
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    def _check_unsupported(self, precision: str | None, prompt: str | None, truncate_dim: int | None) -> None:
        if precision not in (None, "float32"):
            raise ConfigError(f"precision is {precision!r}; vectors are float32, quantise them afterwards")
        if prompt:
            raise ConfigError(f"prompt {prompt!r} is unsupported: {self.name} has no prompts; write it into the texts")
        if truncate_dim is not None and truncate_dim < 1:
            raise ConfigError(f"truncate_dim is {truncate_dim}; it must be at least 1")


def as_list(inputs: object) -> tuple[list[object], bool]:
    """Inputs as a list, and whether they were a single one outside a list."""
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "UTO":  # strings or objects, not pixels
        inputs = inputs.tolist()
    if isinstance(inputs, _SINGLE) or not isinstance(inputs, Iterable):
        return [inputs], True
    return list(cast(Iterable[object], inputs)), False


def _truncated(rows: np.ndarray, length: int, normalize: bool) -> np.ndarray:
    cut = np.ascontiguousarray(rows[..., :length])
    return cut / np.maximum(np.linalg.norm(cut, axis=-1, keepdims=True), 1e-12) if normalize else cut


def _unit(vectors: Vectors) -> Tensor:
    """Vectors of any container as unit float32 rows (n, D)."""
    if isinstance(vectors, (np.ndarray, Tensor)):
        rows = torch.as_tensor(vectors)
    else:
        rows = torch.stack([torch.as_tensor(vector) for vector in vectors])
    return F.normalize(torch.atleast_2d(rows.float()), dim=-1)
