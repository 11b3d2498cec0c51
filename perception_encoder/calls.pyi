"""The keywords that each task of `evaluate` takes: those of its function, which a test compares.

A keyword whose default is `...` is needed unless `data` is the name of a published dataset.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from perception_encoder.conversation.assistant import Assistant
from perception_encoder.evaluation.language.tasks import LanguageTask
from perception_encoder.evaluation.results import Result
from perception_encoder.evaluation.tasks import EncoderLike, ImageSize, LayersLike
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.progress import Track, untracked

@overload
def evaluate(
    task: Literal["classification"],
    model: EncoderLike,
    data: str | Path,
    *,
    split: str = "test",
    classes: str = "",
    mapping: str | Path | None = None,
    onto: str = "",
    media: str | Path | None = None,
    trim: int = 0,
    prompts: str | Sequence[str] = "",
    transform: str | None = None,
    frames: int = 8,
    items: int | None = None,
    progress: Track = untracked,
) -> Result: ...
@overload
def evaluate(
    task: Literal["retrieval"],
    model: EncoderLike,
    data: str | Path,
    *,
    media: str | Path | None = None,
    split: str = "test",
    transform: str | None = None,
    frames: int = 8,
    items: int | None = None,
    progress: Track = untracked,
) -> Result: ...
@overload
def evaluate(
    task: Literal["knn"],
    model: EncoderLike,
    data: str | Path,
    *,
    split: str = "test",
    train: str | Path | None = None,
    media: str | Path | None = None,
    k: int | Sequence[int] = 20,
    layer: int | None = None,
    pool: str | None = None,
    transform: str | None = None,
    progress: Track = untracked,
) -> Result: ...
@overload
def evaluate(
    task: Literal["linear"],
    model: EncoderLike,
    data: str | Path,
    *,
    split: str = "test",
    train: str | Path | None = None,
    media: str | Path | None = None,
    layer: int | None = None,
    pool: str | None = None,
    transform: str | None = None,
    progress: Track = untracked,
) -> Result: ...
@overload
def evaluate(
    task: Literal["attentive"],
    model: LayersLike,
    data: str | Path,
    *,
    split: str = "test",
    train: str | Path | None = None,
    media: str | Path | None = None,
    layer: int | None = None,
    epochs: int = 20,
    head_seeds: int = 3,
    progress: Track = untracked,
) -> Result: ...
@overload
def evaluate(
    task: Literal["segmentation"],
    model: LayersLike,
    data: str | Path,
    *,
    layer: int | None = None,
    size: ImageSize = None,
    epochs: int = 20,
    kernel: int = 1,
    head_seeds: int = 3,
    items: int | None = None,
    progress: Track = untracked,
) -> Result: ...
@overload
def evaluate(
    task: Literal["detection"],
    model: LayersLike,
    data: str | Path,
    *,
    layer: int | None = None,
    size: ImageSize = None,
    class_agnostic: bool = False,
    epochs: int = 15,
    channels: int = 64,
    head_seeds: int = 3,
    progress: Track = untracked,
) -> Result: ...
@overload
def evaluate(
    task: Literal["tracking"],
    model: LayersLike,
    data: str | Path,
    *,
    layer: int | None = None,
    final_norm: bool = False,
    short_side: int = 480,
    items: int | None = None,
    progress: Track = untracked,
) -> Result: ...
@overload
def evaluate(
    task: Literal["depth"],
    model: LayersLike,
    data: str | Path,
    *,
    layer: int | None = None,
    size: ImageSize = None,
    per_metre: float = 1000.0,
    eigen_crop: bool = False,
    aligned: bool = False,
    epochs: int = 20,
    channels: int = 64,
    head_seeds: int = 3,
    items: int | None = None,
    progress: Track = untracked,
) -> Result: ...
@overload
def evaluate(
    task: Literal["questions"],
    model: str | Path | ModelSpec | Assistant,
    data: str | Path,
    *,
    dataset: str | LanguageTask = ...,
    split: str = "",
    items: int | None = None,
    blind: bool = False,
    frames: int = 8,
    tiles: int | None = None,
    records: str | Path | None = None,
    progress: Track = untracked,
) -> Result: ...
