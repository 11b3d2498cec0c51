"""A small language model with random weights, to align or evaluate an encoder cheaply and without a prior."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from perception_encoder.errors import needs_extra
from perception_encoder.files import replacing, writing
from perception_encoder.language_alignment.text.decoder import Decoder, make_decoder
from perception_encoder.models.initialization import drawn_from

FRESH = "fresh"
"""Name of a fresh decoder in a run's settings."""
WIDTH, LAYERS = 128, 2
TOKENS = 2048
"""Maximum size of its vocabulary."""
CONTEXT = 2048
END, *ROLES = SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_fresh_decoder(
    texts: Iterable[str], generator: torch.Generator, width: int = WIDTH, layers: int = LAYERS
) -> Decoder:
    """Return a Llama with random weights and a vocabulary learned from texts; digits are single tokens, as in SmolLM2.

    `width` must be a multiple of 64, the width of a head. Raises MissingExtraError without transformers.
    """
    with needs_extra("lang", "transformers"):
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_train_tokenizer(texts), eos_token=END, pad_token=END)
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with drawn_from(generator):
        model = LlamaForCausalLM(config)
    return make_decoder(FRESH, model, tokenizer)


def write_fresh_decoder(out: Path, texts: Iterable[str], generator: torch.Generator) -> Path:
    """Write a fresh decoder in transformers' layout unless the directory exists; return it. Raises OutputError."""
    if not out.is_dir():
        decoder = make_fresh_decoder(texts, generator)
        with writing(out), replacing(out) as temporary:
            decoder.tokenizer.save_pretrained(temporary)
            decoder.model.save_pretrained(temporary)  # type: ignore[operator]
    return out


def is_fresh(decoder: str) -> bool:
    """Return whether a language model is a directory of `write_fresh_decoder`."""
    try:
        return (Path(decoder) / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE
    except (OSError, ValueError):
        return False


def _train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
