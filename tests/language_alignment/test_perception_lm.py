"""Perception-LM behind this package's interface: the same weights give transformers' logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from perception_encoder.errors import WeightsUnavailableError
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_alignment.load import load_language_model
from perception_encoder.language_alignment.perception_lm import SYSTEM, read_perception_lm, wrap_perception_lm
from perception_encoder.models.initialization import drawn_from
from perception_encoder.preprocess.conversation import Message, Sampling, ask
from perception_encoder.preprocess.tiling import media_pixels
from tests.language_models import byte_tokenizer

NOISE = Image.effect_noise((60, 100), 90).convert("RGB")
CPU = torch.device("cpu")


def perception_lm(pool: int = 2) -> Any:
    """A tiny random PerceptionLM of transformers; images of 56 px have 4 x 4 patches."""
    from transformers import LlamaConfig, PerceptionLMConfig, PerceptionLMForConditionalGeneration

    text = LlamaConfig(
        vocab_size=262,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=256,
        eos_token_id=257,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    vision = {
        "model_type": "timm_wrapper",
        "architecture": "vit_pe_lang_large_patch14_448",
        "do_pooling": False,
        "num_classes": 0,
        "initializer_range": 0.1,
        "model_args": {
            "embed_dim": 32,
            "depth": 3,
            "num_heads": 2,
            "img_size": [56, 56],
            "ref_feat_shape": [4, 4],
            "global_pool": "",
            "use_post_transformer_norm": False,
            "init_values": 0.1,
        },
    }
    config = PerceptionLMConfig(
        vision_config=vision,
        text_config=text,
        vision_use_cls_token=True,
        projector_pooling_ratio=pool,
        image_token_id=258,
        video_token_id=259,
    )
    with drawn_from(torch.Generator().manual_seed(0)):
        model = PerceptionLMForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return model


@torch.no_grad()
@pytest.mark.parametrize("pool", [1, 2])
def test_logits_are_those_of_transformers(pool: int) -> None:
    whole = perception_lm(pool)
    wrapped = wrap_perception_lm("tiny", whole, byte_tokenizer())
    pixels = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(1)) * 2 - 1
    count = 16 // pool**2
    ids = torch.randint(0, 256, (1, 40 + 2 * count), generator=torch.Generator().manual_seed(2))
    is_image = torch.zeros_like(ids, dtype=torch.bool)
    is_image[0, 5 : 5 + count] = is_image[0, 20 + count : 20 + 2 * count] = True
    theirs = whole(input_ids=ids.masked_fill(is_image, 258), pixel_values=pixels[None]).logits
    torch.testing.assert_close(wrapped.model.logits(ids, is_image, pixels), theirs, atol=1e-4, rtol=1e-4)


def test_an_incomplete_directory_names_the_missing_files(tmp_path: Path) -> None:
    perception_lm().save_pretrained(tmp_path, max_shard_size="40KB")
    byte_tokenizer().save_pretrained(tmp_path)
    parts = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 2
    missing = [parts[1], parts[-1], "tokenizer.json"]
    for name in missing:
        (tmp_path / name).unlink()
    with pytest.raises(WeightsUnavailableError, match="is incomplete: missing ") as error:
        load_language_model(ModelSpec(tmp_path, "cpu"))
    assert str(tmp_path) in str(error.value) and all(name in str(error.value) for name in missing)
    (tmp_path / "config.json").unlink()
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(WeightsUnavailableError, match=r"missing config\.json, tokenizer\.json, model\.safetensors;"):
        load_language_model(ModelSpec(tmp_path, "cpu"))


@torch.no_grad()
def test_a_saved_model_answers_as_transformers_generates(tmp_path: Path) -> None:
    whole = perception_lm()
    whole.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    wrapped = read_perception_lm(tmp_path, CPU, torch.float32, tiles=4)
    conversation = ask("what?", [NOISE])
    reply = wrapped.generate([conversation], Sampling(max_tokens=8))[0]
    prompt = wrapped.decoder.prompts.generation_prompt(conversation, [len(wrapped.media_tokens(NOISE))], 8)
    ids = torch.tensor([[258 if image else i for i, image in zip(prompt.ids, prompt.is_image, strict=True)]])
    pixels = media_pixels(NOISE, wrapped.media)
    whole.generation_config.eos_token_id = whole.generation_config.pad_token_id = 257
    theirs = whole.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels[None], max_new_tokens=8, do_sample=False
    )
    assert wrapped.decoder.tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True) == reply.text


def test_the_prompt_is_the_references() -> None:
    wrapped = wrap_perception_lm("tiny", perception_lm(), byte_tokenizer())
    messages = [Message("user", (NOISE, " how many? ")), Message("assistant", ("two",))]
    text = wrapped.decoder.prompts._render(messages, False)
    assert text == (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n\ue200 how many? <|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\ntwo<|eot_id|>"
    )
