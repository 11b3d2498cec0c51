"""Choose what executes a language model: torch, or on a CPU OpenVINO."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from perception_encoder.errors import ConfigError, one_line
from perception_encoder.language_alignment.text.decoder import Decoder
from perception_encoder.language_alignment.text.openvino_llama import OpenVinoLlama
from perception_encoder.language_alignment.text.reading import Reader, TorchReader
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.progress import progress_bar
from perception_encoder.runtime.choice import choose
from perception_encoder.runtime.openvino_runtime import FallbackWarning
from perception_encoder.runtime.runtime import AUTO, Precision, RuntimeName

MAX_PARAMETERS = 4_000_000_000
"""Size up to which OpenVINO is chosen by default: the compiled copy takes as much memory as the model."""


@dataclass(frozen=True)
class Execution:
    """How to load and execute a language model."""

    runtime: RuntimeName
    precision: Precision | None
    """None: torch's choice."""
    device: torch.device
    dtype: torch.dtype
    """Of the weights in torch, and of everything but int8 products."""
    asked: bool
    """Whether OpenVINO or int8 was asked for."""

    @classmethod
    def choose(
        cls, runtime: str, precision: str, device: str | torch.device | None, dtype: torch.dtype | None
    ) -> Execution:
        """Choose the runtime and precision for the arguments of `load_assistant`; `dtype` is a torch type.

        Raises ConfigError for arguments that contradict each other, and MissingExtraError without the extra.
        """
        named = precision if dtype is None else str(dtype).removeprefix("torch.")
        if precision not in (AUTO, named):
            raise ConfigError(f"dtype is {named}, but precision is {precision}; give one of them")
        if dtype not in (None, torch.float32, torch.bfloat16) and runtime != "openvino":  # for example float16 on a GPU
            return cls("torch", None, choose_device(device), dtype, False)
        ran, kind = choose(runtime, named, None if device is None else str(device))
        place = choose_device("cpu" if ran == "openvino" else device)
        dtype = fast_dtype(place) if kind in (None, "int8") else getattr(torch, kind)
        return cls(ran, kind, place, dtype, runtime == "openvino" or precision == "int8")

    def reader(self, decoder: Decoder) -> Reader:
        """Return what executes the decoder.

        torch executes what OpenVINO cannot; if OpenVINO was asked for, ConfigError for another architecture than
        Llama, and a warning if the conversion fails.
        """
        model = decoder.model
        if self.runtime == "torch":
            return TorchReader(model)
        if not OpenVinoLlama.fits(model):
            if self.asked:
                kind = type(model).__name__
                raise ConfigError(
                    f"OpenVINO executes only Llamas, without dynamic RoPE, and {decoder.name} is a {kind}; use torch"
                )
            return TorchReader(model)
        if not self.asked and sum(parameter.numel() for parameter in model.parameters()) > MAX_PARAMETERS:
            return TorchReader(model)
        try:
            with progress_bar(f"converting {decoder.name} for this CPU"):
                return OpenVinoLlama(model, self.precision or "float32")
        except (RuntimeError, MemoryError) as error:  # of OpenVINO: a graph that it does not compile
            warnings.warn(f"{decoder.name} is computed with torch: {one_line(error)}", FallbackWarning, stacklevel=3)
            return TorchReader(model)
