"""Recipes of language alignment, against the paper's section 4 and appendix B.2 and the released configurations."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from perception_encoder.data.conversations import open_conversations
from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.recipes import (
    LAYERS,
    SHAPES,
    alignment,
    custom_questions,
    debug_language,
    decoder_part,
    frozen,
    frozen_warmup,
    third_stage,
    untiled,
    warmup,
)
from perception_encoder.language_alignment.run import ConversationBatches, LanguageTrainee
from perception_encoder.language_models import weights
from perception_encoder.language_models.decoder import DecoderLoRA
from perception_encoder.language_models.model import collate
from perception_encoder.language_models.weights import Parts
from perception_encoder.models.registry import BUILTIN, find_model
from perception_encoder.preprocess.tiling import MediaConfig
from perception_encoder.stages import LANGUAGE_ALIGNMENT
from tests.clips import clip
from tests.recipes import find_recipe
from tests.tiny_language_models import tiny_tower, write_tiny_decoder

LANGUAGE = list(LANGUAGE_ALIGNMENT.recipes)


@pytest.mark.parametrize("size", LAYERS)
def test_the_stages_of_the_released_model(size: str) -> None:
    first, second, third = warmup(size), alignment(size), third_stage(size)
    assert (first.steps, first.batch_size, first.optimizer.lr, first.warmup) == (8_000, 512, 1e-4, 20)
    assert (first.train_vision, first.train_decoder, first.pool, first.context) == (False, False, 1, 1_280)
    assert (second.steps, second.batch_size, second.optimizer.lr, second.warmup) == (35_000, 2_048, 4e-5, 120)
    assert (second.tiles, second.frames, second.pool, second.context) == (16, 16, 2, 6_144)
    assert (third.steps, third.batch_size, third.optimizer.lr, third.warmup) == (21_000, 1_024, 4e-5, 120)
    assert (third.tiles, third.frames, third.pool, third.context) == (36, 32, 2, 11_520)
    for item in (second, third):
        assert (item.layer_scale, item.drop_path) == (0.1, 0.1)
        assert item.train_vision and item.train_decoder and item.lora is None
    assert {item.optimizer.weight_decay for item in (first, second, third)} == {0.01}
    assert all(item.floor == 0.01 and item.optimizer.decay_all for item in (first, second, third))
    assert replace(untiled(size), tiles=16) == second and untiled(size).tiles == 1


@pytest.mark.parametrize("decoder", ["llama", "qwen"])
@pytest.mark.parametrize("size", LAYERS)
def test_the_benchmark_of_a_frozen_encoder(size: str, decoder: str) -> None:
    first, second = frozen_warmup(size, decoder), frozen(size, decoder)
    assert (first.steps, first.batch_size, first.optimizer.lr, first.warmup) == (8_000, 128, 1e-4, 120)
    assert (second.steps, second.batch_size, second.optimizer.lr, second.warmup) == (12_500, 256, 1e-5, 300)
    assert not first.train_decoder and second.train_decoder and not first.train_vision and not second.train_vision
    assert (second.pool, second.tiles, second.frames) == (1, 1, 8)
    assert second.context == 8 * 1_024 + 2_048, "the text is cut at 2,048 tokens"
    assert first.decoder == second.decoder
    billions = {"llama": 8.03, "qwen": 7.62}[decoder]
    assert decoder_part(SHAPES[second.decoder], 1, 0).parameters / 1e9 == pytest.approx(billions, rel=2e-3)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_decoder(tmp_path_factory.mktemp("decoder"), context=16_384))


@pytest.fixture(scope="module")
def largest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that fills any budget of tiles, and a video of more frames than any recipe takes."""
    directory = tmp_path_factory.mktemp("largest")
    Image.new("RGB", (448, 448), "red").save(directory / "a.png")
    (directory / "a.mp4").write_bytes(clip(40))
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "it"}]
    rows = [{"image": "a.png", "messages": turns}, {"video": "a.mp4", "messages": turns}]
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory / "train.jsonl"


def trainee_of(config: LanguageConfig, decoder: str, directory: Path) -> LanguageTrainee:
    """The model of a recipe, in small, after those of the recipes that it begins with."""
    initial = None
    if config.initial is not None and (name := Path(config.initial).parent.name) in LANGUAGE_ALIGNMENT.recipes:
        initial = directory / f"{name}.safetensors"
        trainee_of(find_recipe(name), decoder, directory).write(initial)
    return LanguageTrainee.of(replace(config, decoder=decoder, layer=-1, initial=initial and str(initial)))


@pytest.mark.parametrize("name", [name for name in LANGUAGE if "g14" not in name])
@torch.no_grad()
def test_the_largest_image_and_video_of_a_recipe_fit_its_context(
    name: str, tmp_path: Path, decoder: str, largest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = find_recipe(name)
    patch = 16 if config.encoder == BUILTIN else 14
    monkeypatch.setattr(weights, "load_model", lambda _: tiny_tower(2 * patch, patch))
    trainee = trainee_of(config, decoder, tmp_path)
    source = open_conversations(largest)
    batches = ConversationBatches(config, trainee, [source])
    made = [batches.example(sample) for sample in source]
    side = config.image_size // patch // config.pool
    counts = [side**2 * (1 + config.tiles if config.tiles > 1 else 1), side**2 * config.frames]
    assert [sum(prompt.is_image) for prompt, _ in made] == counts
    batch = collate(made, 0)
    assert all(prompt.cut == 0 for prompt, _ in made) and batch.answer_tokens == 2 * (len("it") + 1)
    tokens = trainee.model.image_tokens(batch.images).flatten(0, 1)
    assert trainee.model.embed(batch.ids, batch.is_image, tokens).isfinite().all()


@pytest.mark.parametrize("size", LAYERS)
def test_a_cut_tower_has_the_depth_of_the_published_one(size: str) -> None:
    encoder, layer = LAYERS[size]
    published = find_model(encoder.replace("Core", "Lang").replace("336", "448"))
    assert layer + 1 == published.vision.depth


def test_a_debug_form_trains_what_its_recipe_does() -> None:
    for recipe in (warmup("g14"), alignment("l14"), custom_questions()):
        small = debug_language(recipe)
        assert (small.train_vision, small.train_decoder) == (recipe.train_vision, recipe.train_decoder)
        assert small.initial is None and small.steps == 4


@pytest.mark.parametrize("lora", [None, DecoderLoRA(rank=4)])
def test_settings_of_parts_have_these_parts(lora: DecoderLoRA | None) -> None:
    parts = Parts(
        encoder="PE-Core-S16-384",
        layer=5,
        layer_scale=0.1,
        decoder="fresh",
        context=64,
        chat_template="{{ messages }}",
        pool=1,
        linear=True,
        lora=lora,
        media=MediaConfig(image_size=224, tiles=9),
    )
    defaults = [field.name for field in fields(Parts) if getattr(parts, field.name) == field.default]
    assert defaults == ([] if lora else ["lora"]), "the test would not see that these are left out"
    config = LanguageConfig.of_parts(parts)
    assert config.parts == parts and config.train_decoder == (lora is not None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_path": 0.1}, "set train_vision=true"),
        ({"lora": DecoderLoRA()}, "set train_decoder=true"),
        ({"train_vision": True, "drop_path": 1.0}, "at least 0 and below 1"),
        ({"tiles": -1}, "tiles is -1"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LanguageConfig(**settings)
