"""transformers' PerceptionLM in this package, and a model of ours as one: the same prompts, logits and answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

import perception_encoder as pe
from perception_encoder.errors import ConfigError, ModelError, OutputError
from perception_encoder.exports import card
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_models.decoder import DecoderLoRA, add_decoder_adapters
from perception_encoder.language_models.load import load_language_model
from perception_encoder.language_models.perception_lm import SYSTEM, read_perception_lm, wrap_perception_lm
from perception_encoder.language_models.weights import Parts, build_language_model, write_language_model
from perception_encoder.models.initialization import drawn_from
from perception_encoder.preprocess.conversation import Message, Sampling, ask
from perception_encoder.preprocess.tiling import MediaConfig, media_pixels
from tests.cards import run_card
from tests.tiny_language_models import TEMPLATE, byte_tokenizer, tiny_llama, write_tiny_decoder

NOISE = Image.effect_noise((150, 70), 90).convert("RGB")
QUESTION = " what is <|image|> here? "


def perception_lm(pool: int = 2) -> Any:
    """A tiny random PerceptionLM of transformers; images of 56 px have 4 x 4 patches."""
    from transformers import PerceptionLMConfig, PerceptionLMForConditionalGeneration

    text = tiny_llama().config
    text.vocab_size, text.tie_word_embeddings, text.initializer_range = 262, True, 0.2
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


@torch.no_grad()
def test_a_saved_model_answers_as_transformers_generates(tmp_path: Path) -> None:
    whole = perception_lm()
    whole.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    wrapped = read_perception_lm(tmp_path, torch.device("cpu"), torch.float32)
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


def write_run(directory: Path, tiles: int = 4, decoder: Path | None = None, **changes: Any) -> Path:
    """Write a run with a trained tower, projector and language model, all random and tiny."""
    decoder = decoder or write_tiny_decoder(directory / "decoder", 2048)
    media = MediaConfig(image_size=64, tiles=tiles)
    parts = Parts(encoder="builtin", layer=3, decoder=str(decoder), context=2000, media=media, **changes)
    generator = torch.Generator().manual_seed(0)
    model, _ = build_language_model(parts, generator)
    if parts.lora:
        add_decoder_adapters(model.decoder, parts.lora, generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("decoder.") or not parts.lora or "lora_" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    path = directory / "language.safetensors"
    write_language_model(path, parts, model, vision=True, decoder=True, half=False)
    return path


def messages(*images: Image.Image) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]


@torch.no_grad()
@pytest.mark.parametrize(
    ("tiles", "changes"),
    [(4, {}), (0, {"pool": 1, "layer_scale": 0.1}), (4, {"lora": DecoderLoRA(rank=2)})],
    ids=["tiles", "one square", "adapters"],
)
def test_transformers_gives_the_same_prompt_logits_and_answers(
    tiles: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", tiles, **changes)
    written = pe.export_perception_lm(run, tmp_path / "out")
    assert written.difference < 1e-5 and written.model == "run"
    ours = load_language_model(ModelSpec(run, "cpu", "torch", "float32"))
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    assert type(theirs).__name__ == "PerceptionLMForConditionalGeneration"
    assert written.parameters == theirs.num_parameters()

    text = QUESTION.replace("<|image|>", "")
    conversation = ask(text, [NOISE])
    inputs = processor.apply_chat_template(
        messages(NOISE), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    pixels = media_pixels(NOISE, ours.media)
    assert inputs["pixel_values"].shape == (1, *pixels.shape)
    assert (inputs["pixel_values"][0] - pixels).abs().max() < 0.02  # two roundings of a resized value
    prompt = ours.decoder.prompts.generation_prompt(conversation, [len(ours.media_tokens(NOISE))], 8)
    ids, is_image = torch.tensor(prompt.ids)[None], torch.tensor(prompt.is_image)[None]
    assert torch.equal(inputs["input_ids"], ids.masked_fill(is_image, processor.image_token_id))
    logits = theirs(**{**inputs, "pixel_values": pixels[None]}).logits
    expected = ours.model.logits(ids, is_image, pixels)
    torch.testing.assert_close(logits[..., : expected.shape[-1]], expected, atol=1e-4, rtol=1e-4)

    answer = ours.generate([conversation], Sampling(max_tokens=12))[0].text
    tokens = theirs.generate(**{**inputs, "pixel_values": pixels[None]}, max_new_tokens=12)
    assert processor.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True) == answer
    pipe = pipeline("image-text-to-text", model=str(tmp_path / "out"), device="cpu")
    found = pipe(text=messages(NOISE), max_new_tokens=12, return_full_text=False)[0]["generated_text"]
    tokens = theirs.generate(**inputs, max_new_tokens=12)
    assert found == processor.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)


@torch.no_grad()
def test_several_images_and_turns(tmp_path: Path) -> None:
    pe.export_perception_lm(write_run(tmp_path / "run"), tmp_path / "out")
    ours = load_language_model(ModelSpec(tmp_path / "run", "cpu", "torch", "float32"))
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    turns = [*messages(NOISE, NOISE.rotate(90)), {"role": "assistant", "content": "two"}, *messages()]
    text = QUESTION.replace("<|image|>", "")
    conversation = [*ask(text, [NOISE, NOISE.rotate(90)]), Message("assistant", ("two",)), *ask(text)]
    inputs = processor.apply_chat_template(
        turns,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs={"vision_input_type": "vanilla"},  # as the card says
    )
    prompt = ours.decoder.prompts.generation_prompt(conversation, [4, 4], 8)
    marks = zip(prompt.ids, prompt.is_image, strict=True)
    assert list(inputs["input_ids"][0]) == [processor.image_token_id if image else token for token, image in marks]


def test_this_package_reads_the_directory_as_the_run(run_pe: Callable, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    result = run_pe("export", "perception-lm", run.parent, tmp_path / "out")
    assert result.status == 0 and result.stdout.startswith(f"{tmp_path / 'out'}: run, ")
    ours = load_language_model(ModelSpec(run, "cpu", "torch", "float32"))
    again = load_language_model(ModelSpec(tmp_path / "out", "cpu", "torch", "float32"))
    assert again.media == ours.media
    assert again.decoder.prompts.template == TEMPLATE and again.decoder.prompts.context == 2000
    conversation, sampling = ask("what is here?", [NOISE]), Sampling(max_tokens=12)
    assert again.generate([conversation], sampling) == ours.generate([conversation], sampling)
    assert again.generate([ask("<|image|>")], sampling)[0].finished in (True, False)  # the token is only a text here
    assert load_language_model(ModelSpec(tmp_path / "out", "cpu", "torch"), tiles=0).media.tiles == 0
    pe.export_perception_lm(run, tmp_path / "half", half=True)
    assert next(AutoModelForImageTextToText.from_pretrained(tmp_path / "half").parameters()).dtype == torch.float16


def test_the_card_names_licences_and_its_program_runs(tmp_path: Path) -> None:
    pe.export_perception_lm(write_run(tmp_path / "run"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: other" in card and "that of decoder for the language model" in card and str(tmp_path) not in card
    assert "a thumbnail and at most 4 tiles" in card and "vision_input_type" in card
    pe.export_perception_lm(write_run(tmp_path / "square", tiles=0), tmp_path / "untiled")
    card = (tmp_path / "untiled" / "README.md").read_text()
    assert "An image becomes one square of 64 px." in card and "vision_input_type" not in card
    assert isinstance(run_card(tmp_path / "out")["answer"].model.config.image_token_id, int)


def test_what_perception_lm_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CohereConfig, CohereForCausalLM

    with pytest.raises(ConfigError, match="the projector is linear"):
        pe.export_perception_lm(write_run(tmp_path / "linear", linear=True), tmp_path / "out")
    with pytest.raises(ConfigError, match="fewer rows of tokens"):
        pe.export_perception_lm(write_run(tmp_path / "pool", pool=8), tmp_path / "out")
    config = CohereConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        logit_scale=0.1,
    )
    CohereForCausalLM(config).save_pretrained(tmp_path / "cohere")
    byte_tokenizer().save_pretrained(tmp_path / "cohere")
    with pytest.raises(ConfigError, match="cohere rescales its logits"):
        pe.export_perception_lm(write_run(tmp_path / "scaled", decoder=tmp_path / "cohere"), tmp_path / "out")

    run = write_run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(card, "TOLERANCE", 0.0)
        with pytest.raises(OutputError, match="the model of transformers differs from torch by"):
            pe.export_perception_lm(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pe.export_perception_lm(run, tmp_path / "out")
    with pytest.raises(ConfigError, match="has this layout already"):
        pe.export_perception_lm(tmp_path / "out", tmp_path / "again")
    with pytest.raises(OutputError, match="exists and is not empty"):
        pe.export_perception_lm(run, tmp_path / "out")


def test_a_tokenizer_that_adds_tokens_is_noticed(tmp_path: Path) -> None:
    from tokenizers import processors

    decoder = write_tiny_decoder(tmp_path / "decoder", 2048)
    tokenizer = byte_tokenizer(TEMPLATE.replace("<|start|>", "[").replace("<|end|>", "]"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 256)]
    )
    tokenizer.save_pretrained(decoder)
    run = write_run(tmp_path / "run", decoder=decoder)
    with pytest.raises(ModelError, match="another prompt than this package"):
        pe.export_perception_lm(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
