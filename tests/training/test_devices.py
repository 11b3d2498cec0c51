"""Devices by name, by what a driver calls them, and measured where the table has none."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.training.cost import DEVICES, Device, find_device, known_device, peak_flops


def test_devices_by_name() -> None:
    assert find_device("H100") == DEVICES["h100"]
    assert find_device("98.9:40") == Device(98.9e12, 40e9)
    with pytest.raises(ConfigError, match="did you mean a100-80gb"):
        find_device("a100-80")
    with pytest.raises(ConfigError, match="there are a100-40gb"):
        find_device("abacus")


@pytest.mark.parametrize(
    ("full_name", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", None),
    ],
)
def test_devices_by_what_a_driver_calls_them(full_name: str, name: str | None) -> None:
    assert known_device(full_name) == (DEVICES[name] if name else None)


def test_a_cpu_is_measured_once() -> None:
    peak = peak_flops(torch.device("cpu"))
    assert 1e8 < peak < 1e15
    assert peak_flops(torch.device("cpu")) == peak
