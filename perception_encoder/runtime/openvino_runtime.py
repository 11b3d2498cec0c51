"""Execute towers with OpenVINO, from the cache of converted ones; torch is imported only to convert one."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_encoder.errors import MissingExtraError, ModelError, OutputError
from perception_encoder.progress import progress_bar
from perception_encoder.runtime import cache
from perception_encoder.runtime.cache import Entry, Key, Tower
from perception_encoder.runtime.machine import core_count
from perception_encoder.runtime.program import AGREEMENT, EXAMPLE, Program, unit_difference
from perception_encoder.runtime.runtime import ModelInfo, Precision, RuntimeName, plain_threads

if TYPE_CHECKING:
    from perception_encoder.models.checkpoints.weights import Model
    from perception_encoder.runtime.torch_runtime import TorchRuntime

ACTIVATIONS = 1_300_000
"""Tokens × width of a batch beyond which more images bring nothing."""
MAX_BATCH = 8


class FallbackWarning(UserWarning):
    """Another runtime or precision than the chosen one is used."""


class OpenVinoRuntime:
    """The towers of a model of this package on a CPU. Each is compiled when it is first needed."""

    name: RuntimeName = "openvino"
    device = "cpu"
    per_core = False
    text_batch_size = 64

    def __init__(self, info: ModelInfo, precision: Precision, load: Callable[[], Model]) -> None:
        """`load`: returns the float32 model in torch, for a tower that is not in the cache.

        Raises MissingExtraError without OpenVINO.
        """
        try:
            import openvino
        except ImportError:
            raise MissingExtraError("openvino", "fast") from None
        self._core = openvino.Core()
        self.info, self.precision, self._load = info, precision, load
        self.batch_size = best_batch(info)
        self._lock = threading.RLock()
        self._towers: dict[tuple[Tower, int | None], _Tower | None] = {}
        self._torch: TorchRuntime | None = None

    @property
    def workers(self) -> int:
        """Threads that read and decode while one computes with all cores."""
        return core_count()

    @property
    def logit_scale(self) -> float | None:
        """See `Runtime`."""
        return self.info.logit_scale

    def threads(self, count: int) -> AbstractContextManager[ThreadPoolExecutor]:
        """See `Runtime`."""
        return plain_threads(count)

    def images(self, pixels: np.ndarray, layer: int, pool: str) -> np.ndarray:
        """See `Runtime`."""
        features = self._run("image", None if pool == "attn" else layer, pixels)
        if features is None:
            return self._in_torch().images(pixels, layer, pool)
        if pool == "attn":
            return features
        prefix = int(self.info.vision.class_token)
        if pool == "cls":
            return features[:, 0]
        return features[:, prefix:] if pool == "tokens" else features[:, prefix:].mean(axis=1)

    def texts(self, ids: np.ndarray) -> np.ndarray:
        """See `Runtime`."""
        embeddings = self._run("text", None, ids)
        return self._in_torch().texts(ids) if embeddings is None else embeddings

    def _run(self, name: Tower, layer: int | None, inputs: np.ndarray) -> np.ndarray | None:
        """Return a tower's output; None if torch must answer."""
        place = name, layer
        with self._lock:
            try:
                for _ in range(2):
                    try:
                        if place not in self._towers:
                            self._towers[place] = self._open(name, layer)
                        tower = self._towers[place]
                        return None if tower is None else tower(inputs)
                    except (RuntimeError, OSError, ValueError, KeyError):  # damage that the checksums do not show
                        cache.forget(self._key(name, layer))
                        self._towers.pop(place, None)
                raise ModelError("OpenVINO does not give what it gave when the model was converted")
            except (OutputError, ModelError) as error:
                warnings.warn(f"{self.info.name} is computed with torch: {error}", FallbackWarning, stacklevel=4)
                self._towers[place] = None
        return None

    def _key(self, name: Tower, layer: int | None) -> Key:
        # tokens, which dense heads read, are never int8
        precision = self.precision if layer is None or self.precision != "int8" else "bfloat16"
        return Key(model=self.info.name, weights=self.info.weights, tower=name, precision=precision, layer=layer)

    def _open(self, name: Tower, layer: int | None) -> _Tower:
        """Return a tower from the cache, or converted now."""
        key = self._key(name, layer)
        entry = cache.find(key) or self._convert(key)
        return _Tower(self._core, entry, self.batch_size if name == "image" else None)

    def _convert(self, key: Key) -> Entry:
        from perception_encoder.runtime.convert import convert_tower

        with progress_bar(f"converting {self.info.name} ({key.tower}) for this CPU, once"):
            model = self._load()
            return cache.store(key, lambda directory: convert_tower(self._core, model, key, directory))

    def _in_torch(self) -> TorchRuntime:
        import torch

        from perception_encoder.runtime.torch_runtime import TorchRuntime

        if self._torch is None:
            self._torch = TorchRuntime(self._load(), torch.device("cpu"), torch.float32)
        return self._torch


class _Tower:
    """A tower compiled for one image and for a batch of them, or for any number of texts.

    Fixed shapes are faster than any number of images: B16 in bfloat16 by a fifth.
    """

    def __init__(self, core: Any, entry: Entry, batch: int | None) -> None:
        """`batch`: images of a full batch; None for texts. The program that is needed first is compiled."""
        self._core, self._entry, self._batch = core, entry, batch
        self._programs: dict[int | None, Program] = {}
        with np.load(entry.directory / EXAMPLE) as arrays:
            self._inputs, self._outputs = arrays["inputs"], arrays["outputs"]

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs of any number of inputs, float32."""
        batch = self._batch
        if batch is None:
            return self._program(None)(inputs)
        outputs = []
        for start in range(0, len(inputs), batch):
            part = inputs[start : start + batch]
            if len(part) > 0.75 * batch:
                filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
                outputs.append(self._program(batch)(filled)[: len(part)])
            else:
                outputs += [self._program(1)(row[None]) for row in part]
        return np.concatenate(outputs)

    def _program(self, batch: int | None) -> Program:
        """Compile for a batch and check it on the example; RuntimeError if it gives something else."""
        if batch not in self._programs:
            precision = self._entry.values["precision"]
            shape = None if batch is None else (batch, *self._inputs.shape[1:])
            rows = np.arange(batch or len(self._inputs)) % len(self._inputs)
            program = Program(self._core, self._entry.path, precision, shape)
            if not unit_difference(program(self._inputs[rows]), self._outputs[rows]) <= AGREEMENT[precision]:
                raise RuntimeError("another output than when the model was converted")
            self._programs[batch] = program
        return self._programs[batch]


def best_batch(info: ModelInfo) -> int:
    """Return the number of images to compute together, a power of two."""
    config = info.vision
    fitting = max(1, ACTIVATIONS // (config.grid**2 * config.width))
    return int(min(MAX_BATCH, 2 ** (fitting.bit_length() - 1)))
