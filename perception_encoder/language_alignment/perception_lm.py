"""Run the published Perception Language Models (facebook/Perception-LM-*) through transformers.

Their parts become this package's tower and projector and a language model, so that everything else is shared. The
weights are under a non-commercial licence. `like` chooses where transformers differs from the reference code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from perception_encoder.errors import ConfigError, MissingExtraError, WeightsUnavailableError, one_line
from perception_encoder.language_alignment.language_model import LanguageModel
from perception_encoder.language_alignment.model import PerceptionLanguageModel, Projector
from perception_encoder.language_alignment.text.decoder import check_complete, make_decoder, quiet_loading
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
    "{{ message.content CONTENT }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""The reference's prompt `plm_sft`: media, then the question without a separator."""
Convention = Literal["reference", "transformers"]


def read_perception_lm(
    source: str | Path,
    device: torch.device,
    dtype: torch.dtype,
    tiles: int = 4,
    like: Convention = "reference",
) -> LanguageModel:
    """Read a Perception-LM from a directory or the hub.

    `tiles`: maximum number of tiles of an image (the published models were trained with 36). `like`: "reference"
    squashes several images to one square each and keeps texts unchanged; "transformers" tiles every image and strips
    texts. Raises WeightsUnavailableError and MissingExtraError.
    """
    try:
        from transformers import AutoTokenizer, PerceptionLMForConditionalGeneration
    except ImportError:
        raise MissingExtraError("transformers", "lang") from None
    local = Path(source).is_dir()
    if local:
        check_complete(Path(source))
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=local, trust_remote_code=False)
            whole: Any = PerceptionLMForConditionalGeneration.from_pretrained(
                str(source), dtype=dtype, local_files_only=local
            )
    except Exception as error:  # what a name, a hub and a file can make a library raise is open-ended
        reason = one_line(error)
        raise WeightsUnavailableError(f"{source} could not be loaded: {reason}") from error
    return wrap_perception_lm(Path(source).name, whole.to(device), tokenizer, tiles, like)


def wrap_perception_lm(
    name: str, whole: Any, tokenizer: Any, tiles: int = 4, like: Convention = "reference"
) -> LanguageModel:
    """Wrap transformers' PerceptionLM and its tokenizer; the weights are shared, not copied."""
    if like not in ("reference", "transformers"):
        raise ConfigError(f"like is {like!r}; it must be 'reference' or 'transformers'")
    vision = _tower(whole.model.vision_tower.timm_model, name)
    template = TEMPLATE.replace("CONTENT", "| trim" if like == "transformers" else "")
    decoder = make_decoder(name, _causal_model(whole), tokenizer, chat_template=template)
    projector = _projector(whole.model.multi_modal_projector, whole.config.projector_pooling_ratio)
    media = MediaConfig(image_size=vision.config.image_size, tiles=tiles, tile_each=like == "transformers")
    return LanguageModel(name, PerceptionLanguageModel(vision, projector, decoder.model), decoder, media)


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
    causal.set_output_embeddings(whole.lm_head)
    causal.generation_config = whole.generation_config
    return causal
