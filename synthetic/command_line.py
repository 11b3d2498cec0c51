"""Run a command of the workshop: `python -m MODULE`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer

from perception_encoder.cli.main import print_log, run_program
from perception_encoder.models.memory import keep_freed_memory


def run_command(module: str, command: Callable[..., None], arguments: Sequence[str] | None = None) -> None:
    """Run a function as the command line of a module; `arguments`: by default those of this process."""
    app = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    app.command()(command)
    print_log()
    keep_freed_memory()
    run_program(app, arguments, f"python -m {module}")
