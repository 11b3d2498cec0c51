"""Run the published Perception Language Models (facebook/Perception-LM-*) through transformers.

Their parts become this package's tower and projector and a language model, so that everything else is shared. The
weights are under a non-commercial licence. As in the reference code, and unlike transformers, several images become one
square each, and texts are not stripped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perception_encoder.errors import needs_extra
from perception_encoder.language_alignment.language_model import LanguageModel
from perception_encoder.language_alignment.model import PerceptionLanguageModel, Projector
from perception_encoder.language_alignment.text.decoder import Decoder, load_pretrained, make_decoder
from perception_encoder.language_alignment.text.reading import Reader
from perception_encoder.models.checkpoints.layouts import to_published
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.tiling import MediaConfig

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""The system message of the published models."""
TEMPLATE = (
    "<|begin_of_text|>{% if messages[0].role != 'system' %}<|start_header_id|>system<|end_header_id|>\n\n"
    + SYSTEM
    + "<|eot_id|>{% endif %}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""The reference's prompt `plm_sft`: media, then the question without a separator."""
OURS = "perception_encoder"
"""Field of config.json in directories of `export_perception_lm`: chat template, context, tiles, vocabulary."""


def read_perception_lm(
    source: str | Path,
    device: torch.device,
    dtype: torch.dtype,
    tiles: int | None = None,
    make_reader: Callable[[Decoder], Reader] | None = None,
) -> LanguageModel:
    """Read a Perception-LM from a directory or the hub.

    `tiles`: maximum number of tiles of an image, by default that of an exported directory, else 4, or 36 on a GPU (the
    published models were trained with 36). `make_reader`: what executes the language model, by default torch.
    Raises WeightsUnavailableError and MissingExtraError.
    """
    with needs_extra("lang", "transformers"):
        from transformers import AutoTokenizer, PerceptionLMForConditionalGeneration
    whole, tokenizer = load_pretrained(source, PerceptionLMForConditionalGeneration, AutoTokenizer, dtype)
    return wrap_perception_lm(Path(source).name, whole.to(device), tokenizer, tiles, make_reader)


def wrap_perception_lm(
    name: str,
    whole: Any,
    tokenizer: Any,
    tiles: int | None = None,
    make_reader: Callable[[Decoder], Reader] | None = None,
) -> LanguageModel:
    """Wrap transformers' PerceptionLM and its tokenizer; the weights are shared, not copied."""
    vision, ours = _tower(whole.model.vision_tower.timm_model, name), getattr(whole.config, OURS, {})
    template, context = ours.get("chat_template", TEMPLATE), ours.get("context")
    decoder = make_decoder(name, _causal_model(whole), tokenizer, context, template)
    if tiles is None:
        tiles = ours.get("tiles", 36 if whole.device.type == "cuda" else 4)
    projector = _projector(whole.model.multi_modal_projector, whole.config.projector_pooling_ratio)
    media = MediaConfig(image_size=vision.config.image_size, tiles=tiles)
    model = PerceptionLanguageModel(vision, projector, decoder.model)
    return LanguageModel(name, model, decoder, media, make_reader and make_reader(decoder))


def _tower(timm_model: Any, name: str) -> VisionTransformer:
    block = timm_model.blocks[0]
    config = VisionConfig(
        image_size=timm_model.patch_embed.img_size[0],
        patch_size=timm_model.patch_embed.patch_size[0],
        width=timm_model.embed_dim,
        depth=len(timm_model.blocks),
        heads=block.attn.num_heads,
        mlp_width=block.mlp.fc1.out_features,
        class_token=timm_model.cls_token is not None,
        attention_pool=False,
        final_norm=not isinstance(timm_model.norm, nn.Identity),
        layer_scale=0.1 if getattr(block, "gamma_1", None) is not None else None,
    )
    with torch.device("meta"):
        tower = VisionTransformer(config, name)
    tower.load_state_dict(to_published(timm_model.state_dict(), config), assign=True)
    return tower


def _projector(module: Any, pool: int) -> Projector:
    first, second = module.linear_1, module.linear_2
    with torch.device("meta"):
        projector = Projector(first.in_features, second.out_features, pool)
    projector.projector[0], projector.projector[2] = first, second
    return projector


def _causal_model(whole: Any) -> Any:
    """Return the language model with its output map, as a causal language model."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(whole.config.text_config, trust_remote_code=False)
    setattr(causal, causal.base_model_prefix, whole.model.language_model)
    head, vocabulary = whole.lm_head, getattr(whole.config, OURS, {}).get("vocabulary", whole.lm_head.out_features)
    if vocabulary < head.out_features:  # without the tokens of media, which are never generated
        with torch.device("meta"):
            head = nn.Linear(head.in_features, vocabulary, bias=False)
        head.weight = nn.Parameter(whole.lm_head.weight[:vocabulary])
    causal.set_output_embeddings(head)
    causal.generation_config = whole.generation_config
    return causal
