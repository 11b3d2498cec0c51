"""The `pe` command: its verbs by name, what all verbs share, and how a run ends.

A verb is a name in VERBS and a module with `app = typer.Typer()`. One command makes a plain verb
(`pe models`); several commands, or a callback, make a group (`pe export onnx`). A module is imported
when its verb is asked for, or listed, so it imports torch only inside its functions.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perception_encoder import __version__
from perception_encoder.cli import output
from perception_encoder.errors import PerceptionEncoderError

VERBS = {
    name: f"perception_encoder.cli.{name}"
    for name in (
        *("demo", "index", "search", "serve", "classify", "embed", "models"),
        *("data", "train", "reproduce", "eval", "layers", "features", "convert", "export"),
    )
}
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What decides how the threads of GNU's, Intel's and LLVM's OpenMP wait for each other."""
HELP = {"help_option_names": ["-h", "--help"]}


class VerbGroup(TyperGroup):
    """A group that imports the module of a verb when the verb is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            near = "".join(f"; did you mean {name!r}?" for name in get_close_matches(cmd_name, VERBS, n=1))
            ctx.fail(f"no such command: {cmd_name!r}{near}")
        verb: typer.Typer = importlib.import_module(VERBS[cmd_name]).app
        verb.rich_markup_mode = app.rich_markup_mode
        command = typer.main.get_command(verb)
        command.name = cmd_name
        command.params = [p for p in command.params if p.name not in ("install_completion", "show_completion")]
        return command


app = typer.Typer(cls=VerbGroup, no_args_is_help=True, rich_markup_mode="markdown", context_settings=HELP)


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        output.print_line(f"pe {__version__}")
        raise typer.Exit(output.OK)


@app.callback()
def prepare(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what is done.")] = False,
) -> None:
    """Perception Encoder: embed, name and find your pictures and videos.

    Exit status: 0 done; 1 some inputs were skipped and reported (search, classify, index, embed: only with --strict);
    2 a usage error, an error, or no input that could be used; 130 stopped with Ctrl-C.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("perception_encoder").setLevel(logging.INFO if verbose else logging.WARNING)
    warnings.showwarning = lambda message, *_: output.print_warning(message)


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has set how they wait; before torch is imported.

    By default they spin. If other programs use the cores, a thread then spins for its whole share of time while the one
    that it waits for does not run: two threads on two busy cores did not reach a tenth of one thread's speed.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `pe`; an error of the package or of the file system is one line and exit status 2."""
    wait_passively()
    gc.set_threshold(100_000, 20, 20)  # importing makes much and drops nothing: collecting then costs a tenth of it,
    atexit.register(gc.freeze)  # and collecting at the end, what the system frees anyway, a fifth of it more
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        typer.main.get_command(app)(arguments, prog_name="pe")
    except (PerceptionEncoderError, OSError) as error:
        output.print_error(error)
        raise SystemExit(output.ERROR) from None
