"""Copy tensors to a GPU, and values back from it, while the host goes on."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the host does not wait for a copy to a GPU, which is made from pinned memory."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Arriving:
    """Values on their way from a device to the host."""

    def __init__(self, values: Tensor) -> None:
        self.waits = values.device.type == "cuda"
        """Whether they are not there at once."""
        self._values = values.to("cpu", non_blocking=self.waits)  # torch chooses pinned memory
        self._arrived = torch.cuda.current_stream(values.device).record_event() if self.waits else None

    def get(self) -> Tensor:
        """Return the values; waits for them, not for the work that the device was given later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values
