"""Settings of a language alignment: an encoder, a language model, and which of them are trained (section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from perception_encoder.errors import ConfigError
from perception_encoder.language_models.decoder import SMOLLM2, DecoderLoRA
from perception_encoder.language_models.weights import Parts
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.tiling import MediaConfig
from perception_encoder.records import Count, CountOrZero, Layer, Positive, ShareBelowOne
from perception_encoder.training.config import TrainingConfig, ValidationConfig
from perception_encoder.training.optimizer import OptimizerConfig

SHARED = ("encoder", "layer", "layer_scale", "decoder", "context", "chat_template", "pool", "linear", "lora")
"""Settings that are also fields of `Parts`."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(TrainingConfig):
    """Everything that decides the result of an alignment, except the data. The projector is always trained."""

    example: ClassVar[str] = 'pe ask IMAGE "What is in the image?" -m {weights}'

    encoder: str = BUILTIN
    """Name, alias or path of the model whose vision tower is aligned."""
    layer: Layer = -1
    """Layer that the projector reads: 0-based, negative from the end. Later layers are dropped."""
    layer_scale: Positive | None = None
    """Initial LayerScale to add to a tower that has none; its features start unchanged."""
    drop_path: ShareBelowOne = 0.0
    """Probability of dropping a residual branch of a trained tower for a sample."""
    decoder: str = SMOLLM2
    """Name or path of the language model; "fresh" for a small one with random weights, made for this run, or for that
    of `initial`, if it is one."""
    context: Count | None = 2048
    """Maximum number of tokens of a conversation, including those of images; longer texts are cut."""
    training_context: Count | None = None
    """Maximum number of tokens of a training conversation, if it is smaller than `context`."""
    chat_template: str | None = None
    """Jinja template, by default that of `initial`, else the language model's."""
    initial: str | None = None
    """Earlier run to start from, a directory or its file: its encoder and layer, and also its projector and language
    model if `decoder` is the same."""
    image_size: Count | None = None
    """Side of an image, tile or frame, in pixels; by default that of `initial`, else the encoder's."""
    tiles: CountOrZero = 0
    """Maximum number of tiles of an image beside its thumbnail; 0 for only the thumbnail."""
    frames: Count = 8
    """Number of frames per video."""
    pool: Count | None = None
    """Average this many tokens along each side into one, after the projector; by default that of `initial`, else 2."""
    linear: bool | None = None
    """Use a linear projector instead of two layers; by default that of `initial`, else two layers."""
    train_vision: bool = False
    """Train the encoder."""
    train_decoder: bool = False
    """Train the language model, or with `lora` only its adapters."""
    lora: DecoderLoRA | None = None
    cached: bool = True
    """Encode each image once and cache its features on disk, if the tower is not trained."""
    apart: bool = False
    """Let each question of a conversation see the images but no earlier question or answer.
    For conversations with all images at the start."""
    skip_bad: bool = False
    """Skip and report bad records of the data; otherwise the first one is an error."""
    steps: Count = 1000
    """Optimizer steps of the whole run."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adamw", lr=1e-4))
    validation: ValidationConfig | None = field(default_factory=ValidationConfig)
    half: bool = True
    """Write float16 weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop_path and not self.train_vision:
            raise ConfigError("drop_path needs a trained tower; set train_vision=true")
        if self.lora is not None and not self.train_decoder:
            raise ConfigError("lora needs a trained language model; set train_decoder=true")

    @property
    def parts(self) -> Parts:
        """Return the parts of the model, without `initial`."""
        size = self.image_size or find_entry(self.encoder).vision.image_size
        shared = {name: getattr(self, name) for name in SHARED}
        shared |= {"pool": self.pool or 2, "linear": bool(self.linear)}
        return Parts(**shared, media=MediaConfig(image_size=size, tiles=self.tiles))

    @classmethod
    def of_parts(cls, parts: Parts) -> LanguageConfig:
        """Return the settings of a model with these `parts`; existing adapters are trained further."""
        shared = {name: getattr(parts, name) for name in SHARED}
        media, adapted = parts.media, parts.lora is not None
        return cls(**shared, train_decoder=adapted, image_size=media.image_size, tiles=media.tiles)
