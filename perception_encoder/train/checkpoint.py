"""Checkpoints of a run: model, optimizer and step in one file, written whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perception_encoder.errors import CheckpointError
from perception_encoder.files import replacing, writing

FILE = "checkpoint.pt"


@dataclass(frozen=True)
class RunState:
    """Where a run stands."""

    step: int
    """Steps done."""
    fingerprint: str
    """Identity of the run's configuration; another one cannot be resumed."""


def save_run(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: RunState) -> None:
    """Replace the folder's checkpoint; OutputError (and the old one kept) where that fails."""
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": state.step,
        "fingerprint": state.fingerprint,
    }
    path = folder / FILE
    with writing(path, also=(RuntimeError,)), replacing(path, folder / f".{FILE}.tmp") as temporary:
        torch.save(content, temporary)


def check_run(folder: Path, fingerprint: str) -> None:
    """CheckpointError where the folder's checkpoint, if there is one, cannot be gone on from."""
    if (folder / FILE).exists():
        _read(folder / FILE, fingerprint)


def resume_run(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str) -> int:
    """Load the folder's checkpoint in place and return the steps done; 0 where there is none."""
    path = folder / FILE
    if not path.exists():
        return 0
    content = _read(path, fingerprint)
    try:
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        return int(content["step"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} does not fit this run ({reason}); delete it to start anew") from None


def _read(path: Path, fingerprint: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, mmap=True)
        found = content["fingerprint"]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise CheckpointError(f"{path}: not a readable checkpoint ({error!r}); delete it to start anew") from None
    if found != fingerprint:
        raise CheckpointError(
            f"{path} belongs to a run with other settings or other data; choose another folder or delete it"
        )
    return content
