"""Rank documents by a query, and classify inputs by labels: `/rerank` and `/classify` as infinity and Jina define them.

All are encoded once and compared by the cosine, so a query, document, input or label may be a text, image or video.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float

from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.pipeline import Feature
from perception_encoder.serving.http import REQUEST, ApiError, FirstError, parse_body
from perception_encoder.serving.requests import (
    ApiConfig,
    Input,
    Value,
    check_limits,
    check_model,
    for_role,
    named_input,
    read_inputs,
)
from perception_encoder.vectors import best_rows, label_probabilities

_ANSWER, _ENTRY = 4 << 20, 40  # bytes of an answer of `/classify`, and of a label's entry besides the label


@dataclass(kw_only=True)
class RerankRequest:
    """The JSON of a request to rank documents."""

    __pydantic_config__: ClassVar = REQUEST
    model: Any = None
    query: Value | None = None
    documents: Annotated[list[Value], FirstError()] | None = None
    top_n: int | None = None
    """Number of documents to return; None means all."""
    return_documents: bool | None = None
    """Whether results hold the documents, as they were sent."""


@dataclass(kw_only=True)
class ClassifyRequest:
    """The JSON of a request to classify inputs."""

    __pydantic_config__: ClassVar = REQUEST
    model: Any = None
    input: Value | Annotated[list[Value], FirstError()] | None = None
    labels: Annotated[list[Value], FirstError()] | None = None
    raw_scores: bool | None = None
    """Whether scores are cosines. infinity's clients always send it: if it is there, the answer has infinity's form."""


_VALUES = "strings, or objects with one of the fields text, image and video"
_RERANK = {
    "": "the body must be a JSON object",
    "query": "query must be a string, or an object with one of the fields text, image and video",
    "documents": f"documents must be a list of {_VALUES}",
    "top_n": "it must be an integer of at least 1",
    "return_documents": "it must be true or false",
}
_CLASSIFY = {
    "": "the body must be a JSON object",
    "input": f"input must be a list of {_VALUES}",
    "labels": f"labels must be a list of at least two {_VALUES}; the model has no labels of its own",
    "raw_scores": "it must be true or false",
}
_ANY_SCORES = {"raw_scores": (True, False), "truncation": (True,)}  # scores are cosines in any case
parse_rerank = partial(parse_body, kind=RerankRequest, allowed=_RERANK, harmless=_ANY_SCORES)
parse_classify = partial(parse_body, kind=ClassifyRequest, allowed=_CLASSIFY)


def check_rerank(request: RerankRequest, encoder: Encoder, config: ApiConfig) -> tuple[list[Input], list[Feature]]:
    """Check a request against the model and the limits; return query and documents, and their features."""
    check_model(request.model, encoder, config)
    if request.query is None:
        raise ApiError(400, _RERANK["query"], "query")
    if not request.documents:
        raise ApiError(400, _RERANK["documents"], "documents")
    if request.top_n is not None and request.top_n < 1:
        raise ApiError(400, f"top_n is {request.top_n}; {_RERANK['top_n']}"[:200], "top_n")
    inputs = [*read_inputs(request.query, "query"), *read_inputs(request.documents, "documents")]
    check_limits(inputs, encoder, config, "documents")
    feature = encoder.feature()
    return inputs, [for_role(feature, "query", encoder), *[feature] * len(request.documents)]


def check_classify(request: ClassifyRequest, encoder: Encoder, config: ApiConfig) -> tuple[list[Input], list[Feature]]:
    """Check a request against the model and the limits; return inputs and labels, and their features."""
    check_model(request.model, encoder, config)
    if not request.input:
        raise ApiError(400, _CLASSIFY["input"], "input")
    if request.labels is None or len(request.labels) < 2:
        raise ApiError(400, _CLASSIFY["labels"], "labels")
    inputs, labels = read_inputs(request.input, "input"), read_inputs(request.labels, "labels")
    check_limits([*inputs, *labels], encoder, config, "input")
    if len(inputs) * sum(_ENTRY + len(label) for _, label in labels) > _ANSWER:
        limit = f"{_ANSWER:,} bytes, the limit"
        raise ApiError(400, f"the answer would have more than {limit}; send fewer inputs or labels at a time", "labels")
    feature = encoder.feature()
    return [*inputs, *labels], [feature] * len(inputs) + [for_role(feature, "query", encoder)] * len(labels)


def rank(request: RerankRequest, vectors: Float[np.ndarray, "n D"], encoder: Encoder) -> dict[str, Any]:
    """Return the answer for the unit vectors of the query and the documents: the cosines, best first."""
    assert request.documents is not None
    scores, rows = best_rows(vectors[0], vectors[1:], request.top_n or len(request.documents))
    results = [
        {"index": row, "relevance_score": score} for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
    ]
    if request.return_documents:
        results = [{**result, "document": request.documents[result["index"]]} for result in results]
    return {"object": "rerank", "results": results}


def classify(request: ClassifyRequest, vectors: Float[np.ndarray, "n D"], encoder: Encoder) -> dict[str, Any]:
    """Return the answer for the unit vectors of the inputs and the labels.

    Scores are the labels' probabilities, see `label_probabilities`, or the cosines with `raw_scores`.
    """
    labels = [label if isinstance(label, str) else named_input(label)[1] for label in request.labels or ()]
    count = len(vectors) - len(labels)
    scores = vectors[:count] @ vectors[count:].T  # (n, K)
    if not request.raw_scores:
        scores = label_probabilities(scores, encoder.logit_scale, encoder.logit_bias)
    rows = [
        [{"label": label, "score": score} for label, score in zip(labels, row, strict=True)] for row in scores.tolist()
    ]
    if request.raw_scores is not None:
        ranked = [sorted(row, key=lambda entry: -entry["score"]) for row in rows]
        return {"object": "classify", "data": ranked}
    best = [max(row, key=lambda entry: entry["score"]) for row in rows]
    data = [
        {
            "object": "classification",
            "index": index,
            "prediction": top["label"],
            "score": top["score"],
            "predictions": row,
        }
        for index, (top, row) in enumerate(zip(best, rows, strict=True))
    ]
    return {"object": "list", "data": data}
