"""A model of transformers answers as its own `generate` does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, WeightsUnavailableError
from perception_encoder.language_alignment.load import TransformersModel, load_transformers_model
from perception_encoder.models.initialization import drawn_from
from perception_encoder.preprocess.conversation import Sampling, ask
from perception_encoder.preprocess.frames import VideoFrames
from tests.language_models import byte_tokenizer

IMAGE = "<|image|>"
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<|image|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def write_tiny_llava(directory: Path) -> Path:
    """Write a random LLaVA of two layers: images of 16 px have 4 tokens."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
    from transformers import LlavaForConditionalGeneration as Llava

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE], "pad_token": "<|end|>"})
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=257,
        initializer_range=0.3,
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    token = tokenizer.convert_tokens_to_ids(IMAGE)
    with drawn_from(torch.Generator().manual_seed(0)):
        model = Llava(LlavaConfig(vision_config=vision, text_config=text, image_token_id=token))
        model.generation_config.eos_token_id = model.generation_config.pad_token_id = 257
        model.save_pretrained(directory)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=TEMPLATE,
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    return load_transformers_model(write_tiny_llava(tmp_path_factory.mktemp("llava")))


RED, BLUE = Image.new("RGB", (20, 30), "red"), Image.new("RGB", (20, 30), "blue")


@torch.no_grad()
def test_answers_are_those_of_transformers(model: TransformersModel) -> None:
    (reply,) = model.generate([ask("what?", [RED])], Sampling(max_tokens=8))
    text = "<|start|>user\n<|image|>what?<|end|>\n<|start|>assistant\n"
    inputs = model.processor(text=[text], images=[RED], return_tensors="pt").to("cpu", model.model.dtype)
    theirs = model.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    length = inputs["input_ids"].shape[1]
    assert reply.text == model.processor.decode(theirs[0, length:], skip_special_tokens=True)
    assert (reply.prompt_tokens, reply.tokens) == (length, len(theirs[0]) - length)


def test_a_video_is_its_frames_in_order(model: TransformersModel) -> None:
    def answer(*images: Image.Image) -> tuple[str, int]:
        video = VideoFrames(list(images), [0.0] * len(images), 1.0, 2, True)
        (reply,) = model.generate([ask("what?", [video])], Sampling(max_tokens=8))
        return reply.text, reply.prompt_tokens

    one, two = answer(RED), answer(RED, BLUE)
    assert two[1] - one[1] == 4
    (separate,) = model.generate([ask("what?", [RED, BLUE])], Sampling(max_tokens=8))
    assert separate.text == two[0]


def test_stops_streams_and_drawn_answers(model: TransformersModel) -> None:
    conversation = ask("what?", [RED])
    (whole,) = model.generate([conversation], Sampling(max_tokens=12))
    assert "".join(model.generate_stream(conversation, Sampling(max_tokens=12))) == whole.text
    stop = next(letter for letter in whole.text[1:] if letter != whole.text[0])
    (stopped,) = model.generate([conversation], Sampling(max_tokens=12, stop=(stop,)))
    assert stopped.text == whole.text[: whole.text.index(stop)] and stopped.finished
    drawn = [model.generate([conversation], Sampling(max_tokens=12, temperature=2, seed=n))[0].text for n in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_cannot_be_loaded_or_answered(model: TransformersModel, tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"is incomplete: missing config\.json"):
        load_transformers_model(tmp_path)
    with pytest.raises(ConfigError, match="rejects this conversation"):
        model.generate([ask("is <|image|> an image?")])
