"""Recipes of language alignment, against the paper's section 4 and appendix B.2."""

from __future__ import annotations

import pytest

from perception_encoder.language_alignment.recipes import (
    LAYERS,
    alignment,
    builtin_alignment,
    debug_language,
    frozen,
    own_questions,
    warmup,
)
from perception_encoder.models.registry import find_model


@pytest.mark.parametrize("size", LAYERS)
def test_the_papers_stages(size: str) -> None:
    first, second, benchmark = warmup(size), alignment(size), frozen(size)
    assert (first.steps, first.batch_size, first.optimizer.lr, first.warmup) == (8_000, 512, 1e-4, 20)
    assert (first.train_vision, first.train_decoder, first.pool, first.context) == (False, False, 1, 1_280)
    assert (second.steps, second.batch_size, second.optimizer.lr, second.warmup) == (35_000, 2_048, 4e-5, 120)
    assert (second.tiles, second.frames, second.pool, second.context) == (16, 16, 2, 6_144)
    assert (second.layer_scale, second.drop_path) == (0.1, 0.1)
    assert second.train_vision and second.train_decoder and second.lora is None
    assert (benchmark.steps, benchmark.batch_size, benchmark.optimizer.lr) == (12_500, 256, 1e-5)
    assert benchmark.train_decoder and not benchmark.train_vision
    assert (benchmark.pool, benchmark.context) == (1, 2_048)


@pytest.mark.parametrize("size", LAYERS)
def test_a_cut_tower_has_the_depth_of_the_published_one(size: str) -> None:
    encoder, layer = LAYERS[size]
    published = find_model(encoder.replace("Core", "Lang").replace("336", "448"))
    assert layer + 1 == published.vision.depth


def test_own_questions_train_adapters_and_the_projector() -> None:
    config = own_questions()
    assert config.train_decoder and config.lora is not None and not config.train_vision


def test_the_built_in_one_trains_adapters_after_the_words() -> None:
    config = builtin_alignment()
    assert config.train_decoder and config.lora is not None and config.apart and not config.train_vision
    assert config.initial == "runs/language_builtin_words/language.safetensors"


def test_a_debug_form_trains_what_its_recipe_does() -> None:
    for recipe in (warmup("g14"), alignment("l14"), own_questions()):
        small = debug_language(recipe)
        assert (small.train_vision, small.train_decoder) == (recipe.train_vision, recipe.train_decoder)
        assert small.initial is None and small.steps == 4
