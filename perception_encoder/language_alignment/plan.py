"""Plan a language alignment, and count operations during a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from perception_encoder.errors import ConfigError, MissingExtraError, WeightsUnavailableError, one_line
from perception_encoder.language_alignment.batches import LanguageBatch
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.text.decoder import SMOLLM2
from perception_encoder.language_alignment.text.fresh_decoder import FRESH, LAYERS, TOKENS, WIDTH
from perception_encoder.language_alignment.text.prompt import IGNORED
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.config import VisionConfig
from perception_encoder.training import cost as costs


class DecoderShape(NamedTuple):
    """Sizes of a Llama-like decoder, named as in transformers."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = True

    def cost(self, tokens: int, labels: float) -> costs.ModelCost:
        """Return the cost of a conversation; `labels`: number of tokens with a label, and thus logits."""
        width, inner, keys = self[0], self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = (width, inner), (width, keys), (width, keys), (inner, width)
        mlp = (width, self[1]), (width, self[1]), (self[1], width)
        block, table = sum(a * b for a, b in attention + mlp) + 2 * width, self.vocab_size * width
        return costs.ModelCost(
            parameters=self.num_hidden_layers * block + (1 if self.tied else 2) * table + width,
            tokens=tokens,
            block_parameters=block,
            depth=self.num_hidden_layers,
            span=tokens,
            heads=self.num_attention_heads,
            attention=attention,
            mlp=mlp,
            rope=True,
            inner=True,
            head=2 * labels * table,
        )


SHAPES = {
    SMOLLM2: DecoderShape(576, 1536, 30, 9, 3, 64, 49152),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": DecoderShape(2048, 8192, 24, 32, 32, 64, 49152),
    "meta-llama/Llama-3.2-1B-Instruct": DecoderShape(2048, 8192, 16, 32, 8, 64, 128256),
    "meta-llama/Llama-3.2-3B-Instruct": DecoderShape(3072, 8192, 28, 24, 8, 128, 128256),
    "meta-llama/Llama-3.1-8B-Instruct": DecoderShape(4096, 14336, 32, 32, 8, 128, 128256, False),
    "Qwen/Qwen2.5-7B-Instruct": DecoderShape(3584, 18944, 28, 28, 4, 128, 152064, False),
    FRESH: DecoderShape(WIDTH, 3 * WIDTH, LAYERS, WIDTH // 64, WIDTH // 64, 64, TOKENS),
}
"""Sizes of the recipes' language models, so that a plan downloads nothing."""


def decoder_shape(name: str) -> DecoderShape:
    """Return the sizes of a language model, from the table or its `config.json`.

    Raises WeightsUnavailableError if it cannot be read, and what `shape_of` does.
    """
    if name in SHAPES:
        return SHAPES[name]
    try:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(name, local_files_only=Path(name).is_dir(), trust_remote_code=False)
    except ImportError:
        raise MissingExtraError("transformers", "lang") from None
    except (OSError, ValueError) as error:
        raise WeightsUnavailableError(f"the language model {name} could not be read: {one_line(error)}") from error
    return shape_of(config, name)


def shape_of(config: Any, name: str) -> DecoderShape:
    """Return the sizes in a configuration of transformers; ConfigError for a model that is not Llama-like."""
    text, tied = config.get_text_config(), bool(getattr(config, "tie_word_embeddings", False))
    try:
        width, heads = text.hidden_size, text.num_attention_heads
        keys, dim = getattr(text, "num_key_value_heads", heads), getattr(text, "head_dim", None) or width // heads
        sizes = text.intermediate_size, text.num_hidden_layers, heads, keys, dim, text.vocab_size
        return DecoderShape(width, *sizes, tied)
    except AttributeError as error:
        raise ConfigError(f"{name} cannot be planned: its configuration has no {error.name}") from None


def plan_language(config: LanguageConfig, devices: int = 1) -> tuple[list[costs.Phase], str]:
    """Return the run's one phase and its assumptions."""
    vision = costs.cut_tower(find_entry(config.encoder).vision, config.layer, config.image_size, config.layer_scale)
    rows, shape = costs.device_rows(config.batch_size, devices), decoder_shape(config.decoder)
    images, tokens = 1 + config.tiles if config.tiles > 1 else 1, _tokens(config, vision)
    encoded = images if config.train_vision or not config.cached else 0
    width, dim = vision.width, shape.hidden_size
    parts = (
        costs.StepModel(costs.vision_cost(vision), encoded, config.train_vision),
        costs.StepModel(shape.cost(tokens, tokens), 1, config.train_decoder, config.lora),
        costs.StepModel(costs.ModelCost(parameters=width * dim + dim + (0 if config.linear else dim * dim + dim))),
    )
    batch = {
        "losses": float(rows * tokens * shape.vocab_size * (costs.BFLOAT16 + 2 * costs.FLOAT32)),
        "images": costs.BATCHES * rows * images * 3.0 * costs.FLOAT32 * vision.image_size**2,
    }
    assumed = f"each conversation has one image of {images} tiles and {tokens:,} tokens in all, each with a loss"
    return [costs.Phase(vision.image_size, config.steps, config.batch_size, parts, batch=batch)], assumed


def _tokens(config: LanguageConfig, vision: VisionConfig) -> int:
    """Return the tokens of an image with its tiles, and of the text that fits beside the largest image or video.

    Without a limit there is as much text as image.
    """
    per_image = max(1, vision.grid // (config.pool or 2)) ** 2
    tiles, context = 1 + config.tiles if config.tiles > 1 else 1, config.training_context or config.context
    text = per_image * tiles if context is None else max(1, context - per_image * max(tiles, config.frames))
    return per_image * tiles + text


def language_cost(config: LanguageConfig, vision: VisionConfig, shape: DecoderShape) -> costs.RunCost:
    """Return the costs of a run in progress; `vision`: the tower at the size of the images."""
    image = costs.StepModel(costs.vision_cost(vision), trained=config.train_vision).flops()

    def flops(batch: LanguageBatch) -> float:
        """Return the operations, including padding; cached features cost nothing."""
        (rows, tokens), labels = batch.ids.shape, int((batch.labels != IGNORED).sum())
        decoder = costs.StepModel(shape.cost(tokens, labels / rows), 1, config.train_decoder, config.lora)
        return (len(batch.images) * image if batch.images.dim() == 4 else 0) + rows * decoder.flops()

    return costs.RunCost(flops, [(config.steps, 1)])
