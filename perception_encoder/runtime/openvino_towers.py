"""Execute towers with OpenVINO, from the cache of converted ones; torch is imported only to convert one."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

import numpy as np

from perception_encoder.errors import CheckpointError, ModelError, OutputError, ShapeError, one_line
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.find import FoundWeights
from perception_encoder.models.memory import release_pages, trim_memory
from perception_encoder.progress import progress_bar
from perception_encoder.runtime import cache
from perception_encoder.runtime.cache import PARALLEL, SINGLE, WEIGHTS, CachedTower, Key, Tower
from perception_encoder.runtime.machine import check_openvino, core_count
from perception_encoder.runtime.program import AGREEMENT, EXAMPLE, Program, activation_bytes, unit_difference
from perception_encoder.runtime.requests import MAX_IMAGES, RequestShape, fastest_request
from perception_encoder.runtime.runtime import ModelInfo, Precision, RuntimeName, used_precision
from perception_encoder.runtime.towers import PackageTowers

if TYPE_CHECKING:
    from perception_encoder.models.checkpoints.weights import Model
    from perception_encoder.runtime.convert import Source
    from perception_encoder.runtime.torch_towers import TorchTowers


_DAMAGED = (RuntimeError, OSError, ValueError, KeyError, EOFError, BadZipFile)
"""Errors of a damaged cache entry, and of OpenVINO without enough memory."""
LAYERS = 2
"""Maximum number of layers whose towers are in memory: the server's clients may ask for any."""
SMALL_IN_A_ROW = 4
"""Number of small batches after which a tower that is compiled for large ones is compiled for them as well."""


class FallbackWarning(UserWarning):
    """Another runtime or precision than the chosen one is used."""


class CompiledTowers:
    """Executes compiled towers of a model on a CPU, each compiled when it is first needed."""

    name: RuntimeName = "openvino"
    device = "cpu"
    per_core = False

    def __init__(
        self,
        model: str,
        precision: Precision,
        key: Callable[[Tower, int | None, Precision], Key],
        source: Callable[[Tower, int | None], Source],
        main: Tower = "image",
        text_tower: Tower = "text",
        text_batch_size: int = 64,
    ) -> None:
        """Convert and check the `main` tower now in int8, before its precision is recorded anywhere.

        Args:
            model: Its name.
            precision: Of the models' own outputs; tokens are never in int8.
            key: Returns the cache key of a tower, with a layer for its tokens, in a precision.
            source: Returns a tower in torch, of a model in float32 on the CPU.
            main: The tower that decides.
            text_tower: The tower of queries.
            text_batch_size: Number of texts to compute together.

        Raises MissingExtraError without OpenVINO, and ConfigError for a broken one.
        """
        check_openvino()
        import openvino

        self._core = openvino.Core()
        self.model_name, self.precision, self._main = model, precision, main
        self.text_tower, self.text_batch_size = text_tower, text_batch_size
        self._make_key, self._source = key, source
        self.batch_size = MAX_IMAGES * core_count()
        self._lock = threading.RLock()
        self._towers: dict[tuple[Tower, int | None], _Tower | None] = {}
        if precision == "int8":
            self.precision = self._checked_precision()

    def _key(self, name: Tower, layer: int | None) -> Key:
        return self._make_key(name, layer, used_precision(self.precision, output=layer is None))

    def _checked_precision(self) -> Precision:
        """Return int8, bfloat16 for a main tower that failed its check, or torch's float32."""
        key = self._key(self._main, None)
        try:
            entry = cache.find(key) or self._convert(key)
        except (OutputError, ModelError) as error:
            self._fall_back(self._main, None, error)
            return "float32"
        if note := entry.values.get("note"):
            warnings.warn(f"{self.model_name}: {note}", FallbackWarning, stacklevel=5)
        return entry.precision

    @property
    def workers(self) -> int:
        """Threads that read and decode while one computes with all cores."""
        return core_count()

    def threads(self, count: int) -> AbstractContextManager[ThreadPoolExecutor]:
        return ThreadPoolExecutor(count, "encode")

    def prepare(self, layer: int | None) -> tuple[RuntimeName, Precision]:
        self._with_tower(self._main, layer, lambda tower: tower.prepare())
        return self.used(layer)

    def used(self, layer: int | None, texts: bool = False) -> tuple[RuntimeName, Precision]:
        of_text = texts or self._main != "image"
        place: tuple[Tower, int | None] = (self.text_tower, None) if of_text else ("image", layer)
        if place not in self._towers:
            return self.name, used_precision(self.precision, output=layer is None)
        tower = self._towers[place]
        return (self.name, tower.precision) if tower else ("torch", "float32")

    def run(self, name: Tower, layer: int | None, inputs: np.ndarray) -> np.ndarray | None:
        """Return a tower's output, with a `layer` its tokens; None if torch must answer."""
        rows = inputs if len(inputs) else np.zeros((1, *inputs.shape[1:]), inputs.dtype)
        if name != "image" and (more := _steps(len(rows)) - len(rows)):
            rows = np.concatenate([rows, np.repeat(rows[:1], more, axis=0)])
        outputs = self._with_tower(name, layer, lambda tower: tower.run(rows))
        return None if outputs is None else outputs[: len(inputs)]

    def leave_to_torch(self, name: Tower) -> None:
        """Do not compile a tower: torch computes it."""
        self._towers[name, None] = None

    def _with_tower(
        self, name: Tower, layer: int | None, call: Callable[[_Tower], np.ndarray | None]
    ) -> np.ndarray | None:
        """Return the result of a call with a tower; None if torch must compute it."""
        place = name, layer
        with self._lock:
            try:
                failure: Exception
                for _ in range(2):
                    try:
                        tower = self._tower(place)
                        return None if tower is None else call(tower)
                    except _DAMAGED as error:
                        failure = error  # by damage that the checksums do not show
                        cache.forget(self._key(name, layer))
                        self._towers.pop(place, None)
                raise ModelError(one_line(failure, first=True))
            except CheckpointError:  # torch needs the weights as well
                raise
            except (OutputError, ModelError) as error:
                self._fall_back(name, layer, error)
        return None

    def _fall_back(self, name: Tower, layer: int | None, error: Exception) -> None:
        self._towers[name, layer] = None
        warnings.warn(f"{self.model_name} is computed with torch: {error}", FallbackWarning, stacklevel=5)

    def _tower(self, place: tuple[Tower, int | None]) -> _Tower | None:
        """Return a tower, or None if torch must compute it; keep only the `LAYERS` layers used last."""
        self._towers[place] = self._towers.pop(place) if place in self._towers else self._open(*place)
        layers = [other for other, tower in self._towers.items() if other[1] is not None and tower]
        for other in layers[:-LAYERS]:
            del self._towers[other]
        return self._towers[place]

    def _open(self, name: Tower, layer: int | None) -> _Tower:
        """Return a tower from the cache; convert it first if needed."""
        key = self._key(name, layer)
        entry = cache.find(key) or self._convert(key)
        if name != self._main and (note := entry.values.get("note")):
            warnings.warn(f"{self.model_name}: {note}", FallbackWarning, stacklevel=6)
        return _Tower(self._core, entry, name == "image")

    def _convert(self, key: Key) -> CachedTower:
        """Convert a tower; ModelError, now and in later runs, if OpenVINO does not take it or differs from torch."""
        from perception_encoder.runtime.convert import convert_tower

        if reason := cache.find_failure(key):
            raise ModelError(reason)

        def convert(directory: Path) -> dict[str, Any]:
            source = self._source(key.tower, key.layer)
            try:
                return convert_tower(self._core, source, key.model, key.precision, directory)
            except ModelError as error:
                if "memory" not in str(error).lower():  # which there may be next time
                    cache.store_failure(key, str(error))
                raise

        with progress_bar(f"converting {self.model_name} ({key.tower}) for this CPU, once"):
            entry = cache.store(key, convert)
        gc.collect()
        trim_memory()  # torch's copy of the weights
        return entry


class OpenVinoTowers(PackageTowers):
    """The towers of a model of this package in OpenVINO; torch in float32 computes one that it does not take."""

    def __init__(self, info: ModelInfo, precision: Precision, load: Callable[[], Model]) -> None:
        """`load`: returns the float32 model in torch, for a tower that is not in the cache.

        Raises what `CompiledTowers` does.
        """
        super().__init__(info.name, info.vision, info.text)
        self.info, self.weight_hash, self._load = info, info.weights, load
        self._lock = threading.RLock()
        self._torch: TorchTowers | None = None
        tokens = precision == "int8" and not info.vision.pools
        self.runtime: CompiledTowers = CompiledTowers(
            info.name, "bfloat16" if tokens else precision, partial(_key, info), partial(_source, load)
        )

    @classmethod
    def load(cls, found: FoundWeights, precision: Precision) -> Self:
        """Return the towers of a model, without reading its weights if they are known."""
        info, (_, entry) = _describe(found), found
        info = replace(info, name=entry.shown if entry else info.name)
        return cls(info, precision, partial(_load_same, found, info.weights))

    @cached_property
    def model(self) -> Model:
        return self._load()

    @property
    def logit_scale(self) -> float | None:
        return self.info.logit_scale

    def embed_pixels(self, pixels: np.ndarray, layer: int, pool: str) -> np.ndarray:
        """See `Towers.images`; raises ShapeError for another size than the model's."""
        expected = (3, *(self.info.vision.image_size,) * 2)
        if pixels.shape[1:] != expected:
            raise ShapeError(f"pixels are {pixels.shape}; {self.info.name} takes (B, {', '.join(map(str, expected))})")
        features = self.runtime.run("image", None if pool == "attn" else layer, pixels)
        if features is None:
            return self._in_torch().embed_pixels(pixels, layer, pool)
        if pool == "attn":
            return features
        prefix = int(self.info.vision.class_token)
        if pool == "cls":
            return features[:, 0]
        return features[:, prefix:] if pool == "tokens" else features[:, prefix:].mean(axis=1)

    def embed_ids(self, ids: np.ndarray) -> np.ndarray:
        assert self.info.text is not None
        more = min(-ids.shape[1] % 4, self.info.text.context_length - ids.shape[1])
        embeddings = self.runtime.run("text", None, np.pad(ids, ((0, 0), (0, max(more, 0)))))
        return self._in_torch().embed_ids(ids) if embeddings is None else embeddings

    def _in_torch(self) -> TorchTowers:
        import torch

        from perception_encoder.runtime.torch_towers import TorchTowers

        with self._lock:
            if self._torch is None:
                self._torch = TorchTowers(self._load(), torch.device("cpu"), torch.float32)
            return self._torch


def _key(info: ModelInfo, name: Tower, layer: int | None, precision: Precision) -> Key:
    config = info.text if name == "text" else info.vision
    assert config is not None
    return Key(model=info.name, weights=info.weights, config=config, tower=name, precision=precision, layer=layer)


def _source(load: Callable[[], Model], name: Tower, layer: int | None) -> Source:
    from perception_encoder.runtime.convert import tower_of

    return tower_of(load(), name, layer)


def _steps(count: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16, …: OpenVINO keeps memory for each shape that it has seen."""
    step = 1 << max(0, count.bit_length() - 2)
    return -(-count // step) * step


class _Tower:
    """A tower from the cache, compiled on first use and then checked on its example.

    Images have fixed shapes, at most two in memory. A large batch is cut into requests of the size that is fastest
    on this machine. In a small batch all cores share each image; the tower is compiled for that as well
    only if several small batches come in a row, as queries do. Texts are computed together.
    """

    def __init__(self, core: Any, entry: CachedTower, fixed: bool) -> None:
        self.precision = entry.precision
        self._core, self._entry, self._fixed = core, entry, fixed
        self._programs: dict[str, Program] = {}
        self._small_in_a_row = 0

    def prepare(self) -> None:
        """Compile it for large batches; RuntimeError if it gives another output than when it was converted."""
        self._program(SINGLE if not self._fixed else PARALLEL)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Return the outputs of a batch; raises what `prepare` does."""
        if not self._fixed:
            return self._program(SINGLE)(inputs)
        small = len(inputs) == 1 or len(inputs) <= self._request.batch // 4  # one image measures nothing
        self._small_in_a_row = self._small_in_a_row + 1 if small else 0
        alone = small and (not self._programs or SINGLE in self._programs or self._small_in_a_row >= SMALL_IN_A_ROW)
        if alone:
            return self._program(SINGLE)(inputs)
        rest = len(inputs) % self._request.images
        if SINGLE in self._programs and 2 * rest <= self._request.images:  # else a request is filled up
            parts = [(PARALLEL, inputs[: len(inputs) - rest]), (SINGLE, inputs[len(inputs) - rest :])]
            return np.concatenate([self._program(kind)(part) for kind, part in parts if len(part)])
        return self._program(PARALLEL)(inputs)

    @cached_property
    def _request(self) -> RequestShape:
        """How large batches are computed; measured when the tower is first used on this machine."""
        image = self._example[0][:1]
        size = partial(activation_bytes, self._core, self._entry.path, image.shape)
        return fastest_request(self._entry.directory, self._entry.model, size, self._compile, image)

    @cached_property
    def _example(self) -> tuple[np.ndarray, np.ndarray]:
        with open(self._entry.directory / EXAMPLE, "rb") as file, np.load(file) as arrays:
            return arrays["inputs"], arrays["outputs"]

    def _program(self, kind: str) -> Program:
        """Return the program of a blob, or the only one that can be compiled."""
        if kind not in self._programs:
            try:
                request = self._request if kind == PARALLEL else RequestShape(1, 1)
                self._programs[kind] = self._compile(request, self._entry.directory / kind)
            except _DAMAGED:  # such as too little memory, or the entry was deleted
                if not self._programs:
                    raise
                self._programs[kind] = next(iter(self._programs.values()))
        return self._programs[kind]

    def _compile(self, request: RequestShape, blob: Path | None = None) -> Program:
        inputs, outputs = self._example
        shape = (request.images, *inputs.shape[1:]) if self._fixed else None
        program = Program(self._core, self._entry.path, self.precision, shape, request.streams, blob)
        rows = np.arange(max(request.batch, len(inputs))) % len(inputs)  # on all cores
        if not unit_difference(program(inputs[rows]), outputs[rows]) <= AGREEMENT[self.precision]:
            raise RuntimeError("OpenVINO does not give what it gave when the model was converted")
        release_pages(self._entry.directory / WEIGHTS)
        return program


def _describe(found: FoundWeights) -> ModelInfo:
    """Return the description of a model: cached for its file, else by reading its weights."""
    cached_hash = CachedHash(found[0])
    weights = cached_hash.find()
    if weights and (info := cache.find_info(cached_hash.key, weights)):
        return info
    from perception_encoder.models.checkpoints.weights import load_file, weight_hash
    from perception_encoder.runtime.torch_towers import describe

    model = load_file(*found)
    info = describe(model, cached_hash.get(lambda: weight_hash(model)))
    cache.store_info(cached_hash.key, info)
    return info


def _load_same(found: FoundWeights, weights: str) -> Model:
    """Load a model again; CheckpointError unless it still has the weights with this hash."""
    from perception_encoder.models.checkpoints.weights import load_file, weight_hash

    model = load_file(*found)
    if weight_hash(model) != weights:
        raise CheckpointError(f"{found[0]} has changed since it was loaded; load it again")
    return model
