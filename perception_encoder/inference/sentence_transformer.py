"""An `Encoder` with the methods and arguments that functions and evaluators of sentence-transformers and mteb call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from perception_encoder.errors import ConfigError
from perception_encoder.inference.pipeline import as_list
from perception_encoder.models.precision import choose_device
from perception_encoder.preprocess.media import Kind
from perception_encoder.progress import progress_bar
from perception_encoder.vectors import Vectors, cosine_similarities, truncate, unit_tensor

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor


class SentenceTransformerView:
    """An `Encoder` as sentence-transformers and mteb call models; `Encoder.as_sentence_transformer` returns one.

    Examples:
        >>> results = mteb.evaluate(pe.load("builtin").as_sentence_transformer(), tasks)
    """

    similarity_fn_name: Literal["cosine"] = "cosine"
    model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *args, **options: None)
    """Where the library's evaluators would store results; an `Encoder` has no model card."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder  # an `Encoder`, whose module imports this one

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the roles that have one, such as "query"; only models of sentence-transformers have any."""
        return dict(self.encoder.towers.prompts)

    def encode(
        self,
        inputs: object,
        *,
        normalize_embeddings: bool = True,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        truncate_dim: int | None = None,
        precision: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        device: str | torch.device | None = None,
        task_metadata: object = None,
        hf_split: str | None = None,
        hf_subset: str | None = None,
        prompt_type: object = None,
        **options: Any,
    ) -> np.ndarray | Tensor | list[Tensor]:
        """Encode images, videos and texts: see `Encoder.encode`, which also takes `options`, such as `layer`.

        Args:
            inputs: As of `Encoder.encode`; with `task_metadata`, mteb's loader of batches.
            normalize_embeddings: Make vectors unit length.
            batch_size: Images or texts computed at once; by default what fits the cache.
            show_progress_bar: Show a bar on a terminal.
            convert_to_numpy: If this and `convert_to_tensor` are False, the result is a list of tensors.
            convert_to_tensor: Return a tensor on the encoder's device.
            truncate_dim: Length to cut vectors to, before they are normalized.
            precision: Only "float32".
            prompt, prompt_name: Unsupported.
            device: Only the encoder's own.
            task_metadata: Of mteb.
            hf_split, hf_subset: Of mteb; changes nothing.
            prompt_type: "query" or "document": chooses the prompt of a model that has them.

        Raises:
            ConfigError: An argument is unsupported; and what `Encoder.encode` raises.
        """
        encoder, role = self.encoder, cast("str | None", getattr(prompt_type, "value", prompt_type))
        _check_unsupported(precision, prompt or prompt_name, truncate_dim, role)
        if device is not None and choose_device(device) != encoder.device:
            where = f"this encoder computes on {encoder.device}"
            raise ConfigError(f"{where}; load one with device={str(device)!r} instead")
        if task_metadata is None:
            values, single = as_list(inputs)
            parts: list[object] | Iterator[object] = [values[0] if single else values]
            count = len(values)
        elif options.get("skipped") is None:
            parts, count, single = _batches(inputs), len(cast(Any, inputs).dataset), False
        else:
            raise ConfigError("skipped is given, but mteb needs a row for each input; omit it")
        options |= {"batch_size": batch_size, "role": role}
        with progress_bar("encoding", count) if show_progress_bar else nullcontext(lambda items: None) as advance:
            arrays = []
            for part in parts:
                arrays.append(encoder.encode(part, normalize_embeddings, **options))
                advance(1 if single else len(cast(Any, part)))
        rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if truncate_dim is not None:
            rows = truncate(rows, truncate_dim, normalize_embeddings)
        if convert_to_numpy and not convert_to_tensor:
            return rows
        import torch

        tensor = torch.from_numpy(rows).to(encoder.device)
        return tensor if single or convert_to_tensor else list(tensor)

    encode_query = partialmethod(encode, prompt_type="query")
    encode_document = partialmethod(encode, prompt_type="document")

    def similarity(self, a: Vectors, b: Vectors) -> Float[Tensor, "n m"]:
        """See `Encoder.similarity`."""
        return cosine_similarities(a, b)

    def similarity_pairwise(self, a: Vectors, b: Vectors) -> Float[Tensor, " n"]:
        """Return cosine similarities of `a[i]` and `b[i]`, each (n, D) or (D,): float32 (n)."""
        return (unit_tensor(a) * unit_tensor(b)).sum(dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's `ModelMeta`; mteb caches results by its revision, so that holds all that vectors depend on."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        encoder = self.encoder
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

    def get_embedding_dimension(self) -> int:
        """`Encoder.dimension`, under sentence-transformers' name."""
        return self.encoder.dimension

    get_sentence_embedding_dimension = get_embedding_dimension


def _check_unsupported(precision: str | None, prompt: str | None, truncate_dim: int | None, role: str | None) -> None:
    """Raise ConfigError for arguments of sentence-transformers that are not supported."""
    if precision not in (None, "float32"):
        raise ConfigError(f"precision is {precision!r}; vectors are float32, quantise them afterwards")
    if prompt:
        raise ConfigError(f"prompt {prompt!r} is unsupported; encode_query and encode_document use the model's own")
    if role not in (None, "query", "document"):
        raise ConfigError(f"prompt_type is {role!r}; it must be 'query' or 'document'")
    if truncate_dim is not None and truncate_dim < 1:
        raise ConfigError(f"truncate_dim is {truncate_dim}; it must be at least 1")


def _batches(loader: Any) -> Iterator[list[object]]:
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
