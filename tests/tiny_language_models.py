"""A tiny random language model with a byte-level tokenizer, and a perception language model around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from perception_encoder.language_models.decoder import Decoder, make_decoder
from perception_encoder.language_models.language_model import LanguageModel
from perception_encoder.language_models.model import PerceptionLanguageModel, Projector
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.initialization import drawn_from, initialize
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.tiling import MediaConfig

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
NO_END = frozenset({-1})
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,
}
SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}


def byte_tokenizer(template: str | None = TEMPLATE) -> Any:
    """A tokenizer of one token a byte, `<|start|>` and `<|end|>`."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|start|>", eos_token="<|end|>")
    fast.chat_template = template
    return fast


def tiny_llama(seed: int = 0, context: int = 512) -> Any:
    """A Llama of two layers for `byte_tokenizer`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=256,
        eos_token_id=257,
        initializer_range=0.3,
    )
    with drawn_from(torch.Generator().manual_seed(seed)):
        return LlamaForCausalLM(config).eval()


def tiny_decoder(context: int | None = None) -> Decoder:
    """The tiny Llama with its tokenizer."""
    return make_decoder("tiny", tiny_llama(), byte_tokenizer(), context)


def write_tiny_decoder(directory: Path, context: int = 512) -> Path:
    """Write the tiny Llama in transformers' layout."""
    tiny_llama(context=context).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


def tiny_tower(size: int = 32, patch: int = 8) -> VisionTransformer:
    """A tower of two layers that gives tokens."""
    config = VisionConfig(
        image_size=size,
        patch_size=patch,
        width=16,
        depth=2,
        heads=2,
        mlp_width=32,
        class_token=True,
        attention_pool=False,
        final_norm=False,
    )
    tower = VisionTransformer(config, "tiny")
    initialize(tower, torch.Generator().manual_seed(0))
    return tower.eval()


def tiny_language_model(context: int | None = None, tiles: int = 4) -> LanguageModel:
    """A perception language model of the tiny parts; an image has 4 tokens, and as many a tile."""
    decoder = tiny_decoder(context)
    projector = Projector(16, decoder.dim, 2)
    with drawn_from(torch.Generator().manual_seed(1)):
        for parameter in projector.parameters():
            torch.nn.init.normal_(parameter)
    model = PerceptionLanguageModel(tiny_tower(), projector, decoder.model)
    return LanguageModel("tiny", model, decoder, MediaConfig(image_size=32, tiles=tiles))


def llama(**settings: Any) -> Any:
    """A Llama of three layers with grouped heads, whose norms differ from 1."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with drawn_from(torch.Generator().manual_seed(0)):
        model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **settings})).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 2)
    return model


def embedded(model: Any, *lengths: int) -> list[torch.Tensor]:
    """Prompts of random tokens."""
    generator = torch.Generator().manual_seed(1)
    return [model.get_input_embeddings()(torch.randint(0, 97, (n,), generator=generator)).detach() for n in lengths]
