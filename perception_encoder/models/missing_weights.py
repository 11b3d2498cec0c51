"""What libraries do silently with a model's files: leave missing weights at random, and download code for attention."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from perception_encoder.errors import CheckpointError

REPORTING: Mapping[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Options of transformers' `from_pretrained`, which then returns a report too, also of weights of another shape."""


def lost_weights(report: Mapping[str, Any]) -> list[str]:
    """Return the weights of such a report that are missing or have another shape, and so are random."""
    return [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]


def check_none_missing(name: str | Path, missing: Iterable[str]) -> None:
    """Raise CheckpointError if a model's file lacks weights."""
    if names := sorted(missing):
        others = f" and {len(names) - 1} others" if names[1:] else ""
        raise CheckpointError(f"{name} lacks the weights {names[0]}{others}, which would be random; download it again")


def without_kernels(config: Any) -> Any:
    """Return a configuration of transformers that computes attention by its default if it names code to download."""
    parts = [config] if hasattr(config, "_attn_implementation") else []
    for part in parts:
        if part._attn_implementation not in (None, "eager", "sdpa", "flex_attention"):
            part._attn_implementation = None
        parts += [value for value in vars(part).values() if hasattr(value, "_attn_implementation")]
    return config


@contextmanager
def missing_weights(owner: type[nn.Module]) -> Iterator[list[str]]:
    """Yield a list of the weights that files lack which this thread loads within the block.

    `owner`: torch's Module, whose `load_state_dict` is then watched, or transformers' PreTrainedModel and its
    `from_pretrained`, which then also gets its configuration `without_kernels`.
    """
    name = "load_state_dict" if owner is nn.Module else "from_pretrained"
    method: Any = vars(owner)[name]
    load: Callable[..., Any] = getattr(method, "__func__", method)  # of a class method
    missing: list[str] = []
    thread = threading.get_ident()  # others load at the same time

    def watched(module: Any, *args: Any, **options: Any) -> Any:
        if threading.get_ident() != thread:
            return load(module, *args, **options)
        if owner is nn.Module:
            result = load(module, *args, **options)
            missing.extend(result.missing_keys)
            return result
        without_kernels(options.get("config"))
        model, report = load(module, *args, **{**options, **REPORTING})
        missing.extend(lost_weights(report))
        return (model, report) if options.get("output_loading_info") else model

    setattr(owner, name, watched if owner is nn.Module else classmethod(watched))
    try:
        yield missing
    finally:
        setattr(owner, name, method)
