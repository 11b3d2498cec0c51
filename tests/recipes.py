"""Configurations of recipes by name."""

from __future__ import annotations

from typing import Any

from perception_encoder.stages import configure


def find_recipe(name: str) -> Any:
    return configure(name)[1]


def debug_recipe(name: str) -> Any:
    return configure(name, debug=True)[1]
