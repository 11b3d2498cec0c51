"""Groups of commands: each command's module is imported when it runs or is listed; renamed flags still work."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from perception_encoder.cli import output

RENAMED = {"--beside": "--baseline", "--any-kind": "--class-agnostic"}
"""Flags that have a new name since version 0.2; the old ones go with version 0.3."""
REMOVED = {"reproduce": "run python -m experiments.recipe, experiments.distillation or experiments.layers"}
"""Commands that are gone, and what to do instead."""


class LazyGroup(TyperGroup):
    """A group whose commands are modules with `app = typer.Typer()`, by name in `modules`."""

    modules: ClassVar[Mapping[str, str]] = {}
    panels: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Which commands the help lists under which heading."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.modules:
            near = [f"did you mean {name!r}?" for name in get_close_matches(cmd_name, self.modules, n=1)]
            hints = [REMOVED[cmd_name]] if cmd_name in REMOVED else near
            ctx.fail("; ".join([f"no such command: {cmd_name!r}", *hints]))
        app: typer.Typer = importlib.import_module(self.modules[cmd_name]).app
        app.rich_markup_mode = "markdown"
        command: Any = typer.main.get_command(app)
        command.name = cmd_name
        command.rich_help_panel = next((name for name, names in self.panels.items() if cmd_name in names), None)
        command.params = [p for p in command.params if p.name not in ("install_completion", "show_completion")]
        hide_types(command, ctx)
        return command

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, list(map(_rename, rest))


def lazy_group(modules: Mapping[str, str], panels: Mapping[str, Sequence[str]] | None = None) -> typer.Typer:
    """Make the app of a group; `modules`: the module of each command, by the command's name."""
    group = type("Group", (LazyGroup,), {"modules": modules, "panels": panels or {}})
    settings = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(cls=group, no_args_is_help=True, rich_markup_mode="markdown", context_settings=settings)


def hide_types(command: Any, context: Any = None) -> None:
    """Print no type beside arguments, whose names say it, and beside options without a value."""
    flags = [command.get_help_option(context)] if context else []
    for parameter in (*command.params, *flags):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None
    for child in getattr(command, "commands", {}).values():
        hide_types(child, context)


def _rename(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    if flag not in RENAMED:
        return argument
    output.print_warning(f"{flag} is now {RENAMED[flag]}; version 0.3 will not accept the old name")
    return RENAMED[flag] + equals + value
