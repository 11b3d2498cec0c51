"""Configure a language alignment: an encoder, a language model, and which of them are trained (section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field

from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.text.adapters import DecoderLoRA
from perception_encoder.language_alignment.text.decoder import SMOLLM2
from perception_encoder.language_alignment.weights import Parts
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.tiling import MediaConfig
from perception_encoder.training.config import TrainingConfig, check_least
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.validation import ValidationConfig


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(TrainingConfig):
    """All that decides an alignment's result, but the data itself. The projector is always trained."""

    encoder: str = BUILTIN
    """Name, alias or path of the model whose vision tower is aligned."""
    layer: int = -1
    """The layer that the projector reads: 0-based, negative from the end. Later ones are dropped."""
    layer_scale: float | None = None
    """LayerScale that is put into the tower; features are the same at first."""
    drop_path: float = 0.0
    """Probability that a residual branch of the tower is left out for a sample, while the tower is trained."""
    decoder: str = SMOLLM2
    """Name or path of the language model; "fresh" for a small one of random weights, made for this run."""
    context: int | None = 2048
    """Most tokens of a conversation, those of images included; longer texts are cut."""
    training_context: int | None = None
    """Most tokens of a conversation that is trained on, if they are fewer than `context`."""
    chat_template: str | None = None
    """A Jinja template, by default that of `initial`, else the language model's own."""
    initial: str | None = None
    """A file that an earlier stage wrote; its encoder and layer are taken, and its projector and language model if
    `decoder` is the same."""
    image_size: int | None = None
    """Side of an image, tile or frame, in pixels; by default that of `initial`, else the encoder's own."""
    tiles: int = 0
    """Most tiles of an image beside its thumbnail; 0 for the thumbnail alone."""
    frames: int = 8
    """Frames of a video."""
    pool: int | None = None
    """Tokens along a side that are averaged into one, after the projector; by default that of `initial`, else 2."""
    linear: bool | None = None
    """A linear projector instead of two layers; by default that of `initial`, else two layers."""
    train_vision: bool = False
    """Train the encoder."""
    train_decoder: bool = False
    """Train the whole language model, or with `lora` its adapters."""
    lora: DecoderLoRA | None = None
    cached: bool = True
    """Encode each image once and read its features from the disk, if the tower is not trained."""
    apart: bool = False
    """Let each question of a conversation see the images, but no earlier question or answer, as if it were the only
    one. For conversations whose images all stand at the start."""
    skip_bad: bool = False
    """Leave out bad records of the data, and report them; else the first one is an error."""
    steps: int = 1000
    """Optimizer steps of the whole run."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(name="adamw", lr=1e-4))
    validation: ValidationConfig | None = field(default_factory=ValidationConfig)
    half: bool = True
    """Write float16 weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, {"steps": 1, "frames": 1, "tiles": 0, "pool": 1, "context": 1, "image_size": 1})
        check_least(self, {"training_context": 1})
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path is {self.drop_path}; it must be at least 0 and below 1")
        if self.drop_path and not self.train_vision:
            raise ConfigError("drop_path is for a tower that is trained; set train_vision=true")
        if self.lora is not None and not self.train_decoder:
            raise ConfigError("lora is for a language model that is trained; set train_decoder=true")

    @property
    def parts(self) -> Parts:
        """What the model is made of, without `initial`."""
        size = self.image_size or find_entry(self.encoder).vision.image_size
        return Parts(
            encoder=self.encoder,
            layer=self.layer,
            layer_scale=self.layer_scale,
            decoder=self.decoder,
            context=self.context,
            chat_template=self.chat_template,
            pool=self.pool or 2,
            linear=bool(self.linear),
            lora=self.lora,
            media=MediaConfig(image_size=size, tiles=self.tiles),
        )

    @classmethod
    def of_parts(cls, parts: Parts) -> LanguageConfig:
        """Return the settings of a model with these `parts`; adapters, if it has any, are trained on."""
        return cls(
            encoder=parts.encoder,
            layer=parts.layer,
            layer_scale=parts.layer_scale,
            decoder=parts.decoder,
            context=parts.context,
            chat_template=parts.chat_template,
            pool=parts.pool,
            linear=parts.linear,
            lora=parts.lora,
            train_decoder=parts.lora is not None,
            image_size=parts.media.image_size,
            tiles=parts.media.tiles,
        )
