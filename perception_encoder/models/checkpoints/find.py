"""Find the file of a model's weights: in the package, on disk, or on the hub. None of this needs torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from perception_encoder.errors import WeightsUnavailableError, one_line
from perception_encoder.models.checkpoints.files import SUFFIXES
from perception_encoder.models.registry import BUILTIN_DEPTH, BUILTIN_DETECTOR, ModelEntry, canonical_name, find_model
from perception_encoder.records import parse_json

TowerChoice = Literal["all", "text"]
FoundWeights = tuple[Path, ModelEntry | None]
"""A weights file, and the model if it was given by name."""
DIRECTORY_FILES = ("model.safetensors", "open_clip_model.safetensors")
"""Weight files in directories written by `pe convert` or a training run."""
RECORD = "config.json"
"""The file with the settings of a training run, in its directory."""
_PATIENCE = 2.0
"""Maximum seconds for the hub to answer; the environment variable HF_HUB_ETAG_TIMEOUT overrides it."""


def packaged_weights(name: str) -> Path:
    """Return a weights file in the package, such as "builtin"; WeightsUnavailableError if it is missing."""
    path = Path(str(files("perception_encoder") / "weights" / f"{name}.safetensors"))
    if not path.is_file():
        raise WeightsUnavailableError(f"{path} is missing from this installation; reinstall perception-encoder")
    return path


def find_head(name: str | Path) -> Path:
    """Return the file of a built-in head, or the path itself; WeightsUnavailableError if a built-in is missing."""
    return packaged_weights(str(name)) if name in (BUILTIN_DEPTH, BUILTIN_DETECTOR) else Path(name)


def find_weights(name: str | Path) -> FoundWeights:
    """Find the weights of a name or path, downloaded if needed."""
    path = Path(name)
    if isinstance(name, Path) or canonical_name(name) is None:
        if path.is_dir():
            return file_inside(path, *DIRECTORY_FILES), None
        if path.exists() or path.suffix in SUFFIXES:
            return path, None
    entry = find_model(str(name))
    return fetch_weights(entry) if entry.builtin is None else packaged_weights(entry.builtin), entry


def file_inside(directory: Path, *names: str) -> Path:
    """Return the first of these files in a directory, else the directory.

    Raises WeightsUnavailableError for a run of `pe train` that has not written its weights.
    """
    for name in names:
        if (directory / name).is_file():
            return directory / name
    try:
        unfinished = "fingerprint" in parse_json((directory / RECORD).read_bytes(), dict[str, Any])
    except (OSError, ValueError):
        unfinished = False
    if unfinished and not any(directory.glob("*.safetensors")):
        raise WeightsUnavailableError(
            f"{directory} is an unfinished run of `pe train`, without {names[0]}; rerun its command to finish it"
        )
    return directory


def fetch_weights(entry: ModelEntry) -> Path:
    """Return the file of published weights; WeightsUnavailableError if it is neither cached nor downloadable."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    file = f"{entry.name}.pt"
    cached = try_to_load_from_cache(entry.repository, file)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(entry.repository, file)
    try:
        _in_time(lambda patience: get_hf_file_metadata(url, timeout=patience))
        return Path(hf_hub_download(entry.repository, file))
    except Exception as error:  # the hub's client raises many kinds, such as offline, missing and gated
        reason = one_line(error, first=True)
        raise WeightsUnavailableError(
            f"the weights of {entry.name} could not be fetched ({reason}); download {url} elsewhere "
            f"and give the path DIRECTORY/{file} instead of the name, or use the small model builtin"
        ) from None


@contextmanager
def hub_or_cache(name: str, asks: bool = True, copy: str = "DIRECTORY") -> Iterator[None]:
    """Load a model in the block from the hub or, if it does not answer in time, from its client's cache alone.

    The client would otherwise retry for a minute per file. `asks`: whether the block may ask the hub. `copy`: how to
    name a downloaded copy. Raises WeightsUnavailableError if the hub does not answer and a file is not cached.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import get_session

    silence, asked = "its client is set to offline" if asks else "", asks and not constants.HF_HUB_OFFLINE
    if asked:
        try:
            silence = ""
            _in_time(lambda patience: get_session().head(constants.ENDPOINT, timeout=patience))
        except Exception as error:  # of two HTTP clients
            silence = one_line(error, first=True)
    try:
        if asked and silence:
            constants.HF_HUB_OFFLINE = True
        yield
    except Exception as error:
        causes: list[BaseException] = [error]
        while cause := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(cause)
        if not silence or not any(isinstance(cause, (LocalEntryNotFoundError, ConnectionError)) for cause in causes):
            raise
        raise WeightsUnavailableError(
            f"{name} could not be loaded: it is not cached, and {constants.ENDPOINT} cannot be reached ({silence}); "
            f"give a copy of it as {copy}"
        ) from None
    finally:
        if asked and silence:
            constants.HF_HUB_OFFLINE = False


def _in_time(ask: Callable[[float], object]) -> None:
    """Raise unless the hub answers in time, whether the name look-up, the connection or the answer hangs."""
    patience = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or _PATIENCE)
    answer: Future[object] = Future()

    def run() -> None:
        try:
            answer.set_result(ask(patience))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        answer.result(timeout=patience)
    except TimeoutError:
        raise TimeoutError(f"no answer within {patience:g} s") from None
