"""Groups of commands: each command's module is imported when it runs or is listed."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Annotated, Any, ClassVar, get_type_hints

import typer
from typer.core import TyperArgument, TyperGroup, TyperOption

from perception_encoder.cli.options import BY_POSITION
from perception_encoder.inference.model_spec import DEFAULT, ModelSpec

HELP_ALL = "help_all"
"""The parameter that shows the help with all options and commands."""

CommandTable = Mapping[str, Mapping[str, str]]
"""The commands of a group by heading of its help: the name of each, and its module in `perception_encoder.cli`, or
`module:function` or `module:app` if they differ in name."""


class LazyGroup(TyperGroup):
    """A group whose commands are functions of modules that are imported late, or modules with an `app` of commands."""

    table: ClassVar[CommandTable] = {}
    first: Sequence[str] = ()
    """The commands that the help shows without `--help-all`; none: all."""
    _hides = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._hides = bool(self.first)  # in the help only: a shell completes all commands
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for modules in self.table.values() for name in modules]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        heading = next((heading for heading, modules in self.table.items() if cmd_name in modules), None)
        if heading is None:
            near = [f"did you mean {name!r}?" for name in get_close_matches(cmd_name, self.list_commands(ctx), n=1)]
            return ctx.fail("; ".join([f"no such command: {cmd_name!r}", *near]))
        command: Any = typer.main.get_command(_find_app(self.table[heading][cmd_name], cmd_name))
        command.name = cmd_name
        command.rich_help_panel = heading
        command.hidden = self._hides and cmd_name not in self.first
        command.params = [p for p in command.params if p.name not in ("install_completion", "show_completion")]
        adapt(command, ctx)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command to run; an option of another name that is a command's is an error that names it."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyGroup):
            return name, command, rest
        known = {flag for parameter in getattr(command, "params", ()) for flag in parameter.opts}
        for word in takewhile(lambda word: word != "--", rest):
            if word.startswith("--") and word not in known and word[2:] in self.list_commands(ctx):
                ctx.fail(f"no such option: {word}; did you mean {f'{ctx.command_path} {word[2:]}'!r}?")
        return name, command, rest


class PlainArgument(TyperArgument):
    """An argument whose name says it all: the help adds no type, and the usage line no braces."""

    def display_type_rich(self, ctx: Any) -> None:
        return None

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        name = self.metavar or self.name
        if not self.required and not name.startswith("["):
            name = f"[{name}]"
        return [name if self.nargs == 1 or name.endswith("...") else f"{name}..."]


class PositionalOption(TyperOption):
    """An option whose value may also be given without its flag: the first positional value that no argument takes."""

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        piece = f"[{self.opts[-1]}] {self.metavar}"
        return [piece if self.required else f"[{piece}]"]

    def handle_parse_result(self, ctx: Any, opts: Any, args: list[str]) -> Any:
        if self.name not in opts and args:
            opts, args = {**opts, self.name: args[0]}, args[1:]
        return super().handle_parse_result(ctx, opts, args)


def lazy_group(table: CommandTable, first: Sequence[str] = ()) -> typer.Typer:
    """Make the app of a group: see `LazyGroup`."""
    group = type("Group", (LazyGroup,), {"table": table, "first": first})
    settings = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(cls=group, no_args_is_help=True, rich_markup_mode="markdown", context_settings=settings)


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the options of its parameter `model`, if that is a `ModelSpec`: see `options.Spec`."""
    hints = get_type_hints(command, include_extras=True)
    (options,) = getattr(hints.get("model"), "__metadata__", ())[:1] or ({},)
    if not isinstance(options, dict) or not options:
        return command

    def run(**arguments: Any) -> None:
        fields = {name: arguments.pop(name) for name in options}
        command(model=ModelSpec(fields.pop("model") or "", **fields), **arguments)

    parameters = []
    for name, given in inspect.signature(command).parameters.items():
        changed = given.replace(annotation=hints[name], kind=given.KEYWORD_ONLY)
        if name != "model":
            parameters.append(changed)
            continue
        for field, hint in options.items():
            default = getattr(ModelSpec, field, None if given.default is DEFAULT else given.empty)
            parameters.append(changed.replace(name=field, annotation=hint, default=default))
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def adapt(command: Any, context: Any = None) -> None:
    """Print no types beside arguments and flags, let the options BY_POSITION do without their flags, add --help-all.

    Options in the examples are shown even if they are advanced.
    """
    if any(parameter.name == HELP_ALL for parameter in command.params):
        return
    hints = get_type_hints(command.callback, include_extras=True) if command.callback else {}
    flags = [command.get_help_option(context)] if context else []
    examples = (command.help or "").partition("Examples:")[2].split()
    for parameter in (*command.params, *flags):
        if set(examples).intersection(parameter.opts):
            parameter.hidden = False
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    by_position = [name for name, hint in hints.items() if BY_POSITION in getattr(hint, "__metadata__", ())]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            parameter.__class__ = PlainArgument
        elif parameter.name in by_position:
            parameter.__class__ = PositionalOption
    shortened = not hasattr(command, "commands") and any(getattr(one, "hidden", False) for one in command.params)
    if shortened or getattr(command, "first", None):
        command.params.append(_help_all())
    for child in getattr(command, "commands", {}).values():
        adapt(child, context)


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        for parameter in context.command.params:
            parameter.hidden = parameter.name == HELP_ALL  # type: ignore[attr-defined]
        context.command.first = ()  # type: ignore[attr-defined]
        typer.echo(context.get_help(), color=context.color)
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all",
        callback=_show_all,
        is_eager=True,
        expose_value=False,
        help="Show this message with all options and commands, and exit.",
    ),
]


def _help_all() -> Any:
    """Make the option `--help-all`, which shows the advanced options, too."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def command(help_all: HelpAll = False) -> None: ...

    option: Any = typer.main.get_command(app).params[0]
    option.metavar = ""
    return option


def _find_app(place: str, name: str) -> typer.Typer:
    """Return the app or the function at `module:name`, by default the module's `app`, or its function of this name."""
    path, _, function = place.partition(":")
    module = importlib.import_module(f"perception_encoder.cli.{path}")
    found = getattr(module, function) if function else getattr(module, "app", None) or getattr(module, name)
    if isinstance(found, typer.Typer):
        app = found
    else:
        app = typer.Typer()
        app.command()(expand(found))
    app.rich_markup_mode = "markdown"
    return app
