"""Execute towers with torch: the reference, and the only runtime on GPUs."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.find import FoundWeights, TowerChoice
from perception_encoder.models.checkpoints.weights import Model, load_file, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.precision import fast_dtype
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import to_float
from perception_encoder.runtime.runtime import ModelInfo, Precision, RuntimeName
from perception_encoder.runtime.towers import PackageTowers
from perception_encoder.transfer import to_device

CACHED_ACTIVATIONS = 640_000
"""Tokens × width of a batch that fits a CPU core's cache (measured: 2 MiB of L2, bfloat16)."""


class TorchThreads:
    """A device and type, and how many threads encode batches on it."""

    name: RuntimeName = "torch"

    def __init__(self, device: torch.device, dtype: torch.dtype, batch_size: int, per_core: bool = True) -> None:
        """`per_core`: on a CPU, each thread computes on a core of its own; else one at a time, with all cores."""
        self.device = str(device)
        self.precision = cast(Precision, str(dtype).removeprefix("torch."))
        self.batch_size, self.text_batch_size = batch_size, 64 if device.type == "cpu" else 512
        self.per_core = per_core and device.type == "cpu"

    @property
    def workers(self) -> int:
        """As many as torch computes with if each has a core, else the decoding threads."""
        if not self.per_core:
            return min(8, os.cpu_count() or 1)
        with _beginning:
            return torch.get_num_threads()

    def threads(self, count: int) -> AbstractContextManager[ThreadPoolExecutor]:
        return _single_core_threads(count) if self.per_core else ThreadPoolExecutor(count, "encode")

    def prepare(self, layer: int | None) -> tuple[RuntimeName, Precision]:
        return self.used(layer)

    def used(self, layer: int | None, texts: bool = False) -> tuple[RuntimeName, Precision]:
        return self.name, self.precision


class TorchTowers(PackageTowers):
    """The towers of a model of this package in torch."""

    def __init__(
        self,
        model: Model,
        device: torch.device,
        dtype: torch.dtype,
        name: str | None = None,
        hash_weights: Callable[[], str] | None = None,
    ) -> None:
        """`model`: on this device, of this type. `hash_weights`: by default of the weights as they are."""
        self.model: Model = model
        self.visual: VisionTransformer = model.visual if isinstance(model, CLIP) else model
        config = self.visual.config
        super().__init__(name or model.name, config, model.text.config if isinstance(model, CLIP) else None)
        fitting = CACHED_ACTIVATIONS // (config.grid**2 * config.width)
        self.device, self.dtype = device, dtype
        self.runtime = TorchThreads(device, dtype, max(2, fitting) if device.type == "cpu" else 64)
        self._hash_weights = hash_weights or partial(weight_hash, model)

    @classmethod
    def load(cls, found: FoundWeights, device: torch.device, dtype: torch.dtype | None, towers: TowerChoice) -> Self:
        """Load the towers of a model; `dtype`: by default bfloat16 if it is fast."""
        path, entry = found
        cached_hash = CachedHash(path)  # as the file is before it is read
        dtype = dtype or fast_dtype(device)
        model = load_file(path, entry, towers)
        for parameter in model.parameters():
            if not parameter.is_meta:
                parameter.data = parameter.data.to(device, dtype)
        exact = dtype == torch.float32 and all(not parameter.is_meta for parameter in model.parameters())

        def compute() -> str:
            return weight_hash(model if exact else load_file(path, entry))

        return cls(model, device, dtype, entry.shown if entry else None, partial(cached_hash.get, compute))

    @cached_property
    def weight_hash(self) -> str:  # type: ignore[override]
        return self._hash_weights()

    @property
    def logit_scale(self) -> float | None:
        return math.exp(float(self.model.logit_scale.detach())) if isinstance(self.model, CLIP) else None

    @torch.inference_mode()
    def embed_pixels(self, pixels: np.ndarray, layer: int, pool: str) -> np.ndarray:
        if self.visual.conv1.weight.is_meta:
            raise ConfigError(f"{self.model.name} was loaded with towers='text'; load it whole for images and videos")
        scaled = to_float(to_device(torch.from_numpy(pixels), self.device)).to(self.dtype)
        if pool == "attn":
            return as_array(self.visual(scaled))
        return pooled(*layer_tokens(self.visual, scaled, layer), pool)

    @torch.inference_mode()
    def embed_ids(self, ids: np.ndarray) -> np.ndarray:
        assert isinstance(self.model, CLIP)
        return as_array(self.model.encode_text(to_device(torch.from_numpy(ids), self.device)))


def describe(model: Model, weights: str) -> ModelInfo:
    """Return the description of a model whose weights have the hash `weights`."""
    if not isinstance(model, CLIP):
        return ModelInfo(name=model.name, weights=weights, vision=model.config, text=None, logit_scale=None)
    scale = math.exp(float(model.logit_scale.detach()))
    vision, text = model.visual.config, model.text.config
    return ModelInfo(name=model.name, weights=weights, vision=vision, text=text, logit_scale=scale)


def layer_tokens(visual: VisionTransformer, images: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Return prefix (B, P, D) and patch tokens (B, N, D) of a layer, after the final norm if it is the last.

    `images`: (B, 3, H, W) from -1 to 1.
    """
    ((patches, prefix),) = visual.forward_intermediates(  # type: ignore[misc]
        images,
        [layer],
        return_prefix_tokens=True,
        norm=layer == visual.config.depth - 1,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    return prefix, patches


def pooled(prefix: Tensor, patches: Tensor, pool: str) -> np.ndarray:
    """Pool prefix (B, P, D) and patch tokens (B, N, D) by "mean" or "cls", float32 (B, D); "tokens": the patches."""
    if pool == "mean":
        return as_array(patches.float().mean(dim=1))
    return as_array(patches if pool == "tokens" else prefix[:, 0])


def as_array(features: Tensor) -> np.ndarray:
    """Return features as float32 on the CPU."""
    return features.float().cpu().numpy()


_beginning = threading.Lock()  # no thread may ask torch for its number of cores while those of a pool set theirs


@contextmanager
def _single_core_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield an executor whose threads each compute on one core.

    torch keeps a number of cores for each thread, which a thread that asks for the first time takes from whichever
    thread set one last. So each thread of the pool asks before it sets its own, and when all have, the caller sets
    its own again, for threads to come.
    """
    all_set = threading.Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)
        all_set.wait()

    with ThreadPoolExecutor(count, thread_name_prefix="encode", initializer=begin) as pool:
        with _beginning:
            cores = torch.get_num_threads()
            for _ in range(count):
                pool.submit(int)  # a thread begins with its first work
            all_set.wait()
            torch.set_num_threads(cores)
        yield pool
