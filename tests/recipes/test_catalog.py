"""Recipes by name: each is complete, has a debug form, and a name that does not exist is answered with near ones."""

from __future__ import annotations

import dataclasses
import re

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import BUILTIN, canonical_name, find_model
from perception_encoder.planning.devices import find_device
from perception_encoder.pretraining.builtin.recipe import builtin
from perception_encoder.pretraining.plan import Cluster
from perception_encoder.recipes.catalog import RECIPES, find_recipe
from perception_encoder.recipes.kinds import KINDS, debug_form, plan

PAPER_S_STUDENTS = [name for name in RECIPES if RECIPES[name].function == "distillation:distill_core"]


def test_a_recipe_by_name() -> None:
    assert find_recipe("builtin") == builtin()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_config_of_a_known_kind_with_a_debug_form_of_four_steps(name: str) -> None:
    config = find_recipe(name)
    small = debug_form(config)
    assert type(small) is type(config) and type(config) in KINDS
    assert dataclasses.is_dataclass(config) and config.steps > small.steps == 4
    assert BUILTIN in (getattr(small, "model", None), small.initial)
    assert RECIPES[name].summary
    planned = plan(config, Cluster(device=find_device("h100"), devices=8))
    assert sum(stage.steps for stage in planned.stages) == config.steps and planned.device_hours() > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("bultin", "no recipe is called 'bultin'; did you mean builtin"), ("resnet", "`pe train --list` shows them all")],
)
def test_an_unknown_name_shows_near_matches(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_recipe(name)


def chain(name: str) -> list[str]:
    """The recipes that a recipe builds on, from the first one, by where each begins and `pe train` writes."""
    config = find_recipe(name)
    initial = getattr(config, "initial", None)
    if initial is None or canonical_name(initial) is not None:
        return [name]
    found = re.fullmatch(r"runs/(\w+)/model\.safetensors", initial)
    assert found and found[1] in RECIPES, f"{name} begins at {initial}, which no recipe makes"
    before = find_recipe(found[1])
    assert before.model == config.model and not (before.half and not config.half)
    return [*chain(found[1]), name]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_begins_at_random_at_a_published_model_or_at_what_another_recipe_makes(name: str) -> None:
    steps = chain(name)
    paper = RECIPES[name].function.partition(":")[0] == "image_pretraining" or name in PAPER_S_STUDENTS
    assert not paper or find_recipe(steps[0]).initial is None


@pytest.mark.parametrize("size", ["t16", "s16", "b16", "l14", "g14"])
def test_the_paper_s_order(size: str) -> None:
    """Small models: pretrain, distil, video finetune; the teacher is not distilled (section 2.4)."""
    distilled = [] if size == "g14" else [f"distill_{size}"]
    expected = [f"core_{size}", f"core_{size}_cooldown", *distilled, f"video_finetune_{size}"]
    assert chain(f"video_finetune_{size}") == expected
    last = {find_recipe(name).stages[-1].image_size for name in expected}
    assert last == {find_model(find_recipe(f"core_{size}").model).vision.image_size}


def test_a_debug_form_has_the_steps_of_its_recipe() -> None:
    first, last = (debug_form(find_recipe(name)) for name in ("ablation_1", "ablation_9"))
    assert (first.rope, first.attention_pool, first.masking, first.optimizer.name) == (False, False, None, "adamw")
    assert (last.rope, last.attention_pool, last.masking.ratio, last.optimizer.name) == (True, True, 0.4, "lamb")
