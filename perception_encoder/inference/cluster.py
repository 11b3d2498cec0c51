"""The model of this machine's encoder, as each worker of a Ray cluster loads it."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from typing import Self

from perception_encoder.errors import ClusterError, InputError, MediaNotFoundError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.feature import Feature
from perception_encoder.inference.load import load
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.models.registry import portable_name

GPU_BATCH = 64
TASK_BATCHES = 8
"""Maximum number of batches in a task: enough for the threads beside a GPU, little work to lose."""
_MEMORY = 1 << 30  # bytes of a worker beside its model's weights


@dataclass(frozen=True)
class WorkerModel:
    """A model that each worker of a cluster loads."""

    spec: ModelSpec
    weight_hash: str
    memory: int
    """Bytes that a worker needs."""
    cpu_batch: int
    """Number of images that a worker without a GPU computes together."""

    @classmethod
    def of(cls, encoder: Encoder, feature: Feature) -> Self:
        """Describe an encoder's model as it is used for `feature`."""
        runtime, precision = encoder.runtime.used(feature.executed)
        spec = ModelSpec(
            portable_name(encoder.source),
            runtime=runtime,
            precision=precision,
            dimensions=encoder.dimensions,
            decoding=encoder.decoding,
            trust_remote_code=encoder.trust_remote_code,
        )
        weights = sum(weights.nbytes for weights in encoder.model.parameters())
        return cls(spec, encoder.weight_hash, _MEMORY + weights, encoder.batch_size)

    def batch_size(self, device: str) -> int:
        """Return the number of images that a worker computes together."""
        return GPU_BATCH if device == "cuda" else self.cpu_batch

    def load(self, device: str) -> Encoder:
        """Load the model in a worker, on one core or, with torch, on a GPU; ClusterError if its weights differ."""
        import torch

        torch.set_num_threads(1)
        spec = replace(self.spec, device=device)
        if device != "cpu":
            spec = replace(spec, runtime="torch", precision="auto" if spec.precision == "int8" else spec.precision)
        encoder = load(spec)
        if encoder.weight_hash != self.weight_hash:
            raise ClusterError(
                f"{spec.name} has different weights on {socket.gethostname()}; "
                "give both machines the same file, or the same version of perception-encoder"
            )
        return encoder


def task_size(count: int, workers: int, maximum: int = TASK_BATCHES) -> int:
    """Return the number of items in a task, so that even few of them keep all workers busy."""
    return max(1, min(maximum, count // (4 * workers)))


def placed(error: InputError) -> InputError:
    """Return a worker's error with the machine's name, if a file is missing."""
    if not isinstance(error, MediaNotFoundError):
        return error
    where = f"on {socket.gethostname()}, a worker of the cluster, which must see the directory under the same path"
    return MediaNotFoundError(error.source, f"{error.reason} {where}")
