"""What mteb needs of a model, so that `mteb.evaluate(encoder, tasks)` runs its tasks of texts and images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from perception_encoder.inference.embedder import Embedder
from perception_encoder.inference.media import Kind


def batch_inputs(batches: Iterable[Mapping[str, Sequence[object]]]) -> Iterator[list[object]]:
    """The inputs of each of mteb's batches, as dicts that say what they are; other columns, such as titles, are left.

    A batch has columns: {"text": [...], "title": [...]}. Inputs of several modalities stay together, so that
    `of_modality` refuses them. Only one batch of images is in memory at a time.
    """
    for batch in batches:
        columns = {key: batch[key] for key in (*get_args(Kind), "audio") if key in batch}
        yield [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def model_meta(encoder: Embedder) -> Any:
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
