"""A tower to time, its inputs, and what a contender is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.precision import fast_dtype
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import Tokenizer

Run = Callable[[], np.ndarray]
Kind = Literal["image", "single", "text", "caption"]
"""What is encoded: photographs, a single one, texts as long as the model reads, or captions of usual lengths."""
CAPTIONS = (
    "A man in a red jacket rides a bicycle down a wet street.",
    "Two dogs are playing with a ball on the beach.",
    "a bowl of soup and a piece of bread on a wooden table",
    "An old steam train crosses a stone bridge over a river.",
    "Three children are looking at an elephant in the zoo.",
    "A kitchen with white cupboards, a gas stove and a window above the sink.",
    "a cat asleep on the keyboard of a laptop",
    "People are waiting for the bus in front of a book shop.",
    "A plate with rice, beans, salad and a fried egg.",
    "A woman in a long dress is holding an umbrella in the rain.",
    "a yellow taxi next to a police car at night",
    "The mountain is reflected in the still water of a lake.",
    "A baseball player slides into the base while another one throws the ball.",
    "Some sheep and one brown horse on a green hill.",
    "A birthday cake with nine candles stands between two glasses of juice.",
    "a close view of a bee on a purple flower",
)
"""As long as those of COCO, which have ten or eleven words on average."""


@dataclass(frozen=True)
class Contender:
    """One way to compute the tower's outputs of all inputs."""

    who: str
    setting: str
    precision: str
    run: Run
    expected: np.ndarray | None
    """The same weights' outputs in float32 with torch; None for bare products."""

    @property
    def label(self) -> str:
        """Names it in the results."""
        return ", ".join(part for part in (self.who, self.setting, self.precision) if part)


@dataclass(frozen=True)
class Case:
    """A tower of a model with random weights, and its inputs."""

    model: CLIP
    kind: Kind
    inputs: np.ndarray
    """Pixels uint8 (n, 3, H, W), or token ids int64 (n, T), padded to the length that the model reads."""

    @property
    def name(self) -> str:
        """Names it in the results."""
        return f"{self.model.name} {self.kind}"

    @property
    def tower(self) -> Literal["image", "text"]:
        """What computes it."""
        return "image" if self.kind in ("image", "single") else "text"

    @property
    def config(self) -> VisionConfig | TextConfig:
        """Of the tower."""
        return self.model.visual.config if self.tower == "image" else self.model.text.config

    @property
    def module(self) -> nn.Module:
        """The tower: scaled pixels, or token ids, to embeddings."""
        return self.model.visual if self.tower == "image" else self.model.text

    @cached_property
    def ready(self) -> Tensor:
        """The inputs as the peers take them: scaled float32 pixels (n, 3, H, W), or token ids."""
        inputs = torch.from_numpy(self.inputs)
        return to_float(inputs) if self.tower == "image" else inputs

    @property
    def example(self) -> Tensor:
        """Two inputs: from one, exporters fix the batch size at 1."""
        return torch.cat((self.ready[:1], self.ready[-1:]))

    @cached_property
    def expected(self) -> np.ndarray:
        """The outputs in float32 with torch."""
        return output(self.module, self.ready)


def fast_type() -> tuple[str, torch.dtype]:
    """Return the name of torch's fastest type on this CPU, in which its contenders compute, and the type."""
    dtype = fast_dtype(torch.device("cpu"))
    return str(dtype).removeprefix("torch."), dtype


@torch.inference_mode()
def output(module: Any, inputs: Tensor) -> np.ndarray:
    """Return a module's output in float32."""
    array: np.ndarray = module(inputs).float().numpy()
    return array


def case_of(model: CLIP, kind: Kind, count: int) -> Case:
    """Return a tower with inputs: parts of scikit-image's photographs, texts of random words, or captions."""
    if kind in ("image", "single"):
        return Case(model, kind, photographs(count, model.visual.config.image_size))
    length = model.text.config.context_length
    if kind == "caption":
        return Case(model, kind, Tokenizer(length, warns=False).ids(CAPTIONS[:count]))
    ids = np.random.default_rng(0).integers(1000, 49_000, (count, length))
    ids[:, 0], ids[:, -1] = 49_406, 49_407
    return Case(model, kind, ids)


def photographs(count: int, side: int) -> np.ndarray:
    """Return squares cut from scikit-image's photographs, each from another place: uint8 (count, 3, side, side)."""
    from PIL import Image
    from skimage import data

    wholes = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    generator = np.random.default_rng(0)
    found = []
    for number in range(count):
        whole = wholes[number % len(wholes)]
        length = min(whole.size) * 3 // 4
        left, top = (int(generator.integers(0, extent - length)) for extent in whole.size)
        cut = whole.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + length, top + length))
        found.append(np.asarray(cut).transpose(2, 0, 1))
    return np.stack(found)


def spec_of(case: Case) -> Any:
    """Return the registry's entry of a case's model: the peers' names."""
    return find_model(case.model.name)


def minimum_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the lowest cosine similarity of two outputs' rows."""
    first, second = (values.astype(np.float64) for values in (found, expected))
    products = (first * second).sum(axis=-1)
    return float((products / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)).min())


Factory = Callable[[Case, Path], "list[Contender]"]
"""Returns contenders; the path is an empty directory for what they write."""
