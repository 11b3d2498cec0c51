"""Recipes by name: each is complete, has a debug form, and a name that does not exist is answered with near ones."""

from __future__ import annotations

import dataclasses

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.models.devices import find_device
from perception_encoder.models.registry import BUILTIN
from perception_encoder.pretraining.plan import Cluster
from perception_encoder.recipes.builtin import builtin
from perception_encoder.recipes.catalog import RECIPES, find_recipe
from perception_encoder.recipes.kinds import KINDS, debug_form, plan


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


def test_a_debug_form_has_the_steps_of_its_recipe() -> None:
    first, last = (debug_form(find_recipe(name)) for name in ("ablation_1", "ablation_9"))
    assert (first.rope, first.attention_pool, first.masking, first.optimizer.name) == (False, False, None, "adamw")
    assert (last.rope, last.attention_pool, last.masking.ratio, last.optimizer.name) == (True, True, 0.4, "lamb")
