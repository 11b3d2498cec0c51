"""Methods of an `Encoder`, except `encode`, that functions and evaluators of sentence-transformers and mteb call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, get_args

import numpy as np

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.inference.media import Kind

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

Vectors: TypeAlias = "np.ndarray | Tensor | Sequence[np.ndarray] | Sequence[Tensor]"


class EncodeOptions(TypedDict, total=False):
    """The arguments of `Encoder.encode` on which the type of its result does not depend."""

    layer: int | None
    pool: str | None
    frames: int
    decoding: str | None
    batch_size: int | None
    skipped: dict[int, InputError] | None
    show_progress_bar: bool | None
    normalize_embeddings: bool | None
    truncate_dim: int | None
    precision: str | None
    prompt: str | None
    prompt_name: str | None
    device: str | torch.device | None
    task_metadata: object
    hf_split: str | None
    hf_subset: str | None
    prompt_type: object


class _NoModelCard:
    """Placeholder for the model card where the library's evaluators would store results; an `Encoder` has none."""

    def set_evaluation_metrics(self, evaluator: object, metrics: dict[str, float], epoch: int, step: int) -> None: ...


class SentenceInterface(ABC):
    """sentence-transformers' methods that do not depend on the model."""

    similarity_fn_name: Literal["cosine"] = "cosine"
    model_card_data = _NoModelCard()

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the roles that have one, such as "query"; only models of sentence-transformers have any."""
        return {}

    @property
    @abstractmethod
    def dimension(self) -> int: ...

    def similarity(self, a: Vectors, b: Vectors) -> Float[Tensor, "n m"]:
        """Return cosine similarities of each row of `a` (n, D) to each of `b` (m, D), or of (D,): float32 (n, m)."""
        return _unit(a) @ _unit(b).T

    def similarity_pairwise(self, a: Vectors, b: Vectors) -> Float[Tensor, " n"]:
        """Return cosine similarities of `a[i]` and `b[i]`, each (n, D) or (D,): float32 (n)."""
        return (_unit(a) * _unit(b)).sum(dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's description of the model, used for names and cached results."""
        return _model_meta(self)

    def get_embedding_dimension(self) -> int:
        """`dimension`, under sentence-transformers' name."""
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension


def check_unsupported(precision: str | None, prompt: str | None, truncate_dim: int | None, role: str | None) -> None:
    """Raise ConfigError for arguments of sentence-transformers that are not supported."""
    if precision not in (None, "float32"):
        raise ConfigError(f"precision is {precision!r}; vectors are float32, quantise them afterwards")
    if prompt:
        raise ConfigError(f"prompt {prompt!r} is unsupported; encode_query and encode_document use the model's own")
    if role not in (None, "query", "document"):
        raise ConfigError(f"prompt_type is {role!r}; it must be 'query' or 'document'")
    if truncate_dim is not None and truncate_dim < 1:
        raise ConfigError(f"truncate_dim is {truncate_dim}; it must be at least 1")


def _unit(vectors: Vectors) -> Tensor:
    """Return vectors of any container as unit float32 rows (n, D)."""
    import torch
    import torch.nn.functional as F

    if isinstance(vectors, (np.ndarray, torch.Tensor)):
        rows = torch.as_tensor(vectors)
    else:
        rows = torch.stack([torch.as_tensor(vector) for vector in vectors])
    return F.normalize(torch.atleast_2d(rows.float()), dim=-1)


def batch_inputs(loader: Any) -> Iterator[list[object]]:
    """Yield the inputs of mteb's batches, {"text": [...], "title": [...]}, as dicts that name their kind.

    An input with several modalities keeps all of them, and `of_modality` refuses it. Videos are passed on as files:
    only the sampled frames are decoded, without torchcodec.
    """
    if type((getattr(loader.dataset, "features", None) or {}).get("video")).__name__ == "Video":
        from datasets import Video
        from torch.utils.data import DataLoader

        files = loader.dataset.cast_column("video", Video(decode=False))
        loader = DataLoader(files, loader.batch_size, collate_fn=loader.collate_fn)
    for batch in loader:
        columns = {key: batch[key] for key in (*get_args(Kind), "audio") if key in batch}
        if "video" in columns:
            columns["video"] = [_content(video) for video in columns["video"]]
        yield [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _content(video: object) -> object:
    """Return the bytes or the path of a file as `datasets` stores it."""
    return (video["bytes"] or Path(video["path"])) if isinstance(video, Mapping) else video


def _model_meta(encoder: Any) -> Any:
    """Return mteb's `ModelMeta`; mteb caches results by its revision, so that holds all that vectors depend on."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    about = encoder.describe(encoder.feature()) | {"precision": encoder.runtime.precision}  # the same in each call
    parts = ("weight_hash", "precision", "layer", "pool", "transform", "dimension")
    return ModelMeta.create_empty(
        {
            "name": f"perception-encoder/{encoder.name}",
            "revision": "-".join(str(about[part])[:16] for part in parts),
            "modalities": ["image", "video"] * encoder.reads_images + ["text"] * encoder.reads_texts,
            "embed_dim": encoder.dimension,
            "n_parameters": sum(parameter.numel() for parameter in encoder.model.parameters()),
            "similarity_fn_name": ScoringFunction.COSINE,
            "framework": ["PyTorch"],
        }
    )
