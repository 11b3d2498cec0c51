"""The published weights: from the hub's cache on this machine, or downloaded once."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path

from perception_encoder.errors import WeightsUnavailableError, one_line
from perception_encoder.models.registry import ModelEntry

_PATIENCE = 2.0
"""Seconds within which the hub must answer; the environment variable HF_HUB_ETAG_TIMEOUT overrides it."""


def fetch_weights(entry: ModelEntry) -> Path:
    """The file of a model's published weights; WeightsUnavailableError if it is not cached and cannot be downloaded."""
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache

    file = f"{entry.name}.pt"
    cached = try_to_load_from_cache(entry.repository, file)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(entry.repository, file)
    try:
        _check_answer(url)
        return Path(hf_hub_download(entry.repository, file))
    except Exception as error:  # the hub's client raises many kinds: offline, missing and gated among them
        reason = one_line(error, first=True)
        raise WeightsUnavailableError(
            f"the weights of {entry.name} could not be fetched ({reason}); download {url} elsewhere "
            f"and give the file's path as the model (--model DIRECTORY/{file}), or use --model builtin"
        ) from error


def _check_answer(url: str) -> None:
    """Raise unless the hub answers soon, whatever hangs: the look-up of its name, the connection, or the answer."""
    from huggingface_hub import get_hf_file_metadata

    patience = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or _PATIENCE)
    outcomes: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            get_hf_file_metadata(url, timeout=patience)
            outcomes.put(None)
        except Exception as error:
            outcomes.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        error = outcomes.get(timeout=patience)
    except queue.Empty:
        raise TimeoutError(f"no answer within {patience:g} s") from None
    if error is not None:
        raise error
