"""Plan a language alignment before it begins, from formulas: operations, hours, and memory of each device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perception_encoder.errors import ConfigError, MissingExtraError, WeightsUnavailableError, one_line
from perception_encoder.language_alignment.batch import LanguageBatch
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.text.adapters import DecoderLoRA
from perception_encoder.language_alignment.text.decoder import SMOLLM2
from perception_encoder.language_alignment.text.fresh_decoder import FRESH, LAYERS, TOKENS, WIDTH
from perception_encoder.language_alignment.text.prompt import IGNORED
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.config import VisionConfig
from perception_encoder.planning.activations import BFLOAT16, FLOAT32, OPTIMIZER, vision_activations
from perception_encoder.planning.cluster import Cluster, StagePlan, TrainingPlan
from perception_encoder.planning.cost import TowerCost, vision_cost

WHOLE = 3  # blocks that FSDP2 holds whole at a time


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """The sizes of a decoder of Llama's kind, as transformers names them."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied: bool

    @property
    def attention(self) -> int:
        """Parameters of a block's attention."""
        heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads
        return self.hidden_size * self.head_dim * heads

    @property
    def block(self) -> int:
        """Parameters of a block."""
        return self.attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters."""
        tables = (1 if self.tied else 2) * self.vocab_size * self.hidden_size
        return self.num_hidden_layers * self.block + tables + self.hidden_size

    def flops(self, tokens: int) -> int:
        """Operations of the forward pass over a conversation, without logits; attention counts whole."""
        matrices = 2 * tokens * (self.block - 2 * self.hidden_size)
        scores = 4 * tokens**2 * self.num_attention_heads * self.head_dim
        return self.num_hidden_layers * (matrices + scores)

    def logits(self, tokens: int) -> int:
        """Operations of the output map for so many tokens."""
        return 2 * tokens * self.hidden_size * self.vocab_size

    def adapters(self, lora: DecoderLoRA) -> int:
        """Parameters of adapters."""
        width, heads = self.hidden_size, self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        attention = 2 * (width + heads) + 2 * (width + keys)
        mlp = 3 * (width + self.intermediate_size)
        used = {"attention": attention, "mlp": mlp, "all": attention + mlp}[lora.targets]
        return self.num_hidden_layers * lora.rank * used

    def activations(self, tokens: int, checkpointing: bool) -> float:
        """Bytes that the forward pass over a conversation saves for the backward pass, in bf16 autocast."""
        width, heads = self.hidden_size, self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        norms = 2 * (2 * FLOAT32 * width + BFLOAT16 * width)  # what is normed, normed, and scaled
        attention = BFLOAT16 * (2 * (heads + 2 * keys) + 2 * heads)  # before and after rotation, and attended
        mlp = BFLOAT16 * 4 * self.intermediate_size
        block, entry = tokens * (norms + attention + mlp), tokens * FLOAT32 * width
        layers = self.num_hidden_layers
        return float(layers * entry + block if checkpointing else layers * block)


# fmt: off
SHAPES = {
    SMOLLM2: DecoderShape(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                          num_key_value_heads=3, head_dim=64, vocab_size=49152, tied=True),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": DecoderShape(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32,
        num_key_value_heads=32, head_dim=64, vocab_size=49152, tied=True),
    "meta-llama/Llama-3.2-1B-Instruct": DecoderShape(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, vocab_size=128256, tied=True),
    "meta-llama/Llama-3.2-3B-Instruct": DecoderShape(
        hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
        num_key_value_heads=8, head_dim=128, vocab_size=128256, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": DecoderShape(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, vocab_size=128256, tied=False),
    "Qwen/Qwen2.5-7B-Instruct": DecoderShape(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, head_dim=128, vocab_size=152064, tied=False),
    FRESH: DecoderShape(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=WIDTH // 64,
        num_key_value_heads=WIDTH // 64, head_dim=64, vocab_size=TOKENS, tied=True),
}
# fmt: on
"""Sizes of the recipes' language models, so that a plan needs no download."""


def decoder_shape(name: str) -> DecoderShape:
    """The sizes of a language model, from the table or its `config.json`.

    Raises WeightsUnavailableError if it cannot be read, and what `shape_of` does.
    """
    if name in SHAPES:
        return SHAPES[name]
    try:
        from transformers import AutoConfig
    except ImportError:
        raise MissingExtraError("transformers", "lang") from None
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=Path(name).is_dir(), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise WeightsUnavailableError(f"the language model {name} could not be read: {one_line(error)}") from error
    return shape_of(config, name)


def shape_of(config: Any, name: str) -> DecoderShape:
    """The sizes in a configuration of transformers; ConfigError for a model that is not of Llama's kind."""
    text = config.get_text_config()
    try:
        heads = int(text.num_attention_heads)
        return DecoderShape(
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_hidden_layers,
            num_attention_heads=heads,
            num_key_value_heads=getattr(text, "num_key_value_heads", heads),
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocab_size=text.vocab_size,
            tied=bool(getattr(config, "tie_word_embeddings", False)),
        )
    except AttributeError as error:
        raise ConfigError(f"{name} is not planned: its configuration has no {error.name}") from None


def plan_language(config: LanguageConfig, cluster: Cluster) -> TrainingPlan:
    """Plan a run; ConfigError if a batch has fewer conversations than there are devices."""
    if config.batch_size < cluster.devices:
        raise ConfigError(f"a batch of {config.batch_size} cannot be shared by {cluster.devices} devices")
    vision, decoder = _vision(config), decoder_shape(config.decoder)
    images, tokens = _images(config), _tokens(config, vision)
    tower = vision_cost(vision, vision.image_size)
    again = tower.recomputed(checkpointing=config.parallel.checkpointing) if config.train_vision else 0
    flops = _tower_flops(config, tower, images) + _decoder_flops(config, decoder, tokens, tokens)
    executed = flops + images * again + (decoder.flops(tokens) if config.parallel.checkpointing else 0)
    samples = config.steps * config.batch_size
    stage = StagePlan(
        image_size=vision.image_size,
        steps=config.steps,
        samples=samples,
        flops=samples * flops,
        executed=samples * executed,
        memory=_memory(config, vision, decoder, cluster.devices),
    )
    assumed = f"each conversation has one image of {images} tiles and {tokens:,} tokens in all, each with a loss"
    return TrainingPlan(
        parameters=vision.parameters + decoder.parameters + _projector(vision, decoder, bool(config.linear)),
        stages=(stage,),
        cluster=cluster,
        assumed=assumed,
    )


class LanguageCost:
    """What a run costs: the loop reports by it how well the device is used and when the run will end."""

    def __init__(self, config: LanguageConfig, vision: VisionConfig, decoder: DecoderShape) -> None:
        """`vision`: the tower as it is trained, at the size of the images."""
        self.config, self.decoder = config, decoder
        self.tower = vision_cost(vision, vision.image_size)

    def flops(self, batch: LanguageBatch) -> float:
        """Operations of this rank's part of a batch, its padding included; features that are given cost nothing."""
        images = len(batch.images) if batch.images.dim() == 4 else 0
        rows, tokens = batch.ids.shape
        labels = int((batch.labels != IGNORED).sum())
        of_rows = rows * _decoder_flops(self.config, self.decoder, tokens, 0)
        return _tower_flops(self.config, self.tower, images) + of_rows + 3 * self.decoder.logits(labels)

    def share(self, steps: int) -> float:
        """Share of the run's work that is done after so many steps."""
        return steps / self.config.steps


def _tower_flops(config: LanguageConfig, tower: TowerCost, images: int) -> float:
    """Operations of a conversation's images in a step."""
    return float(images * (tower.training() if config.train_vision else 0 if config.cached else tower.forward))


def _decoder_flops(config: LanguageConfig, decoder: DecoderShape, tokens: int, labels: int) -> float:
    """Operations of a conversation in a step: forward, backward to the inputs, and to weights that are trained."""
    whole = config.train_decoder and config.lora is None
    flops = (3 if whole else 2) * decoder.flops(tokens) + 3 * decoder.logits(labels)
    return float(flops if config.lora is None else flops + 6 * tokens * decoder.adapters(config.lora))


def _vision(config: LanguageConfig) -> VisionConfig:
    """The tower, cut at its layer, at the size of images."""
    whole = find_entry(config.encoder).vision
    return replace(
        whole,
        depth=config.layer % whole.depth + 1,
        image_size=config.image_size or whole.image_size,
        attention_pool=False,
        final_norm=False,
        output_dim=None,
        layer_scale=config.layer_scale or whole.layer_scale,
    )


def _images(config: LanguageConfig) -> int:
    return 1 + config.tiles if config.tiles > 1 else 1


def _tokens(config: LanguageConfig, vision: VisionConfig) -> int:
    """Tokens of a conversation: an image with its tiles, and the text that the largest image or video leaves room for.

    Without a limit there is as much text as image.
    """
    each = max(1, vision.grid // (config.pool or 2)) ** 2
    images, context = each * _images(config), config.training_context or config.context
    largest = each * max(_images(config), config.frames)
    return images + (images if context is None else max(1, context - largest))


def _projector(vision: VisionConfig, decoder: DecoderShape, linear: bool) -> int:
    width, dim = vision.width, decoder.hidden_size
    return width * dim + dim + (0 if linear else dim * dim + dim)


def _memory(config: LanguageConfig, vision: VisionConfig, decoder: DecoderShape, devices: int) -> dict[str, float]:
    """Bytes that a step holds on a device, by what they are, each at its peak; leave a tenth free."""
    share = 1 / devices if config.parallel.kind == "fsdp" else 1.0
    projector = _projector(vision, decoder, bool(config.linear))
    adapters = 0 if config.lora is None else decoder.adapters(config.lora)
    trained = projector + adapters
    trained += vision.parameters if config.train_vision else 0
    trained += decoder.parameters if config.train_decoder and config.lora is None else 0
    total = vision.parameters + decoder.parameters + projector + adapters
    rows = -(-config.batch_size // devices)
    tokens, images = _tokens(config, vision), _images(config)
    at_once = config.parallel.checkpointing
    tower = vision_activations(vision, vision.image_size, BFLOAT16).total(at_once) if config.train_vision else 0
    parts = {
        "weights": FLOAT32 * total * share,
        "bf16 copies": float(BFLOAT16 * total),
        "gradients": FLOAT32 * trained * share,
        "optimizer": OPTIMIZER * FLOAT32 * trained * share,
        "whole blocks": float(WHOLE * FLOAT32 * decoder.block) if share < 1 else 0.0,
        "activations": rows * (images * tower + decoder.activations(tokens, at_once)),
        "logits": float(rows * tokens * decoder.vocab_size * (BFLOAT16 + 2 * FLOAT32)),
        "images": 3 * rows * images * 3.0 * FLOAT32 * vision.image_size**2,
    }
    return {name: size for name, size in parts.items() if size}
