"""The `pe` command: its commands by group, the options they share, and how a run ends."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

import typer

from perception_encoder._version import __version__
from perception_encoder.cli import output
from perception_encoder.cli.groups import adapt, lazy_group
from perception_encoder.errors import PerceptionEncoderError, one_line

COMMANDS = {
    "Search": {
        "demo": "embed:demo",
        "search": "search",
        "index": "search",
        "classify": "embed:classify",
        "near-duplicates": "search:near_duplicates",
    },
    "Ask": {"ask": "language", "caption": "language", "words": "embed:words"},
    "Locate": {"track": "dense", "segment": "dense", "depth": "dense", "detect": "dense"},
    "Serve and export": {"serve": "serve", "embed": "embed:embed", "export": "export", "convert": "export:convert"},
    "Train": {
        "train": "train:train",
        "data": "train:app",
        "engine": "engine",
        "annotate": "video_dataset:annotate",
        "video-dataset": "video_dataset",
    },
    "Choose and evaluate": {"models": "models", "eval": "evaluate", "layers": "layers", "features": "layers"},
}
"""All commands by heading: see `CommandTable`."""
FIRST = ["demo", "search", "index", "classify", "ask", "track", "serve", "embed", "train", "models", "eval", "layers"]
"""The commands that `pe --help` shows; `--help-all` shows all."""
EXIT_STATUS = """\
Exit status: 0 success; 1 some inputs were skipped and reported (search, classify, index, embed, caption: only with
--strict); 2 usage error, error, or no usable input; 130 stopped by Ctrl-C, 143 by SIGTERM, 141 by a closed pipe."""
"""The end of the help, before a remark on usage lines."""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""The variables that tell the threads of GNU's, Intel's and LLVM's OpenMP how to wait for each other."""

app = lazy_group(COMMANDS, FIRST)


def show_version(show: bool) -> None:
    """Print the version and stop."""
    if show:
        output.print_line(f"pe {__version__}")
        raise typer.Exit(output.OK)


@app.callback(epilog=f"{EXIT_STATUS}\n\n`[-m] MODEL` in the usage of a command means that the flag may be left out.")
def prepare(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print log messages.")] = False,
) -> None:
    """Search, classify, embed and describe images and videos.

    `pe --help-all` shows all commands. The help of a command shows its main options and examples, `--help-all` all of
    its options.

    Examples:

        pe search "a red mug" photos
        pe models use PE-Core-L14-336
        pe COMMAND --help
    """
    print_log(verbose)


def print_log(verbose: bool = False) -> None:
    """Print warnings, and the package's whole log if `verbose`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("perception_encoder").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.root.addFilter(_below_error)
    logging.getLogger("huggingface_hub").propagate = False  # it has its own handler, and would print twice
    warnings.showwarning = lambda message, *_: output.print_warning(message)


def _below_error(record: logging.LogRecord) -> bool:
    """Drop the errors that open_clip logs at the root: it raises them as well."""
    return record.levelno < logging.ERROR


def wait_passively() -> None:
    """Let waiting OpenMP threads sleep, unless the user has set how they wait; call it before torch is imported.

    By default they spin. On busy cores a thread then spins while the thread that it waits for cannot run: two threads
    on two busy cores reached less than a tenth of one thread's speed.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `pe`."""
    run_program(app, arguments, "pe")


def run_program(program: typer.Typer, arguments: Sequence[str] | None = None, name: str | None = None) -> None:
    """Run a command-line program; an error of the package or of the file system is one line and exit status 2."""
    wait_passively()
    gc.set_threshold(200_000, 20, 20)  # imports free nothing: collecting would take a tenth of their time,
    atexit.register(gc.freeze)  # and a fifth at exit, where the system frees everything anyway
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(program)
    adapt(command, typer.Context(command, **command.context_settings))
    try:
        command(arguments, prog_name=name)
    except SystemExit as end:  # click and rich end with 1 when nobody reads on, as after `| head`
        if isinstance(end.__context__, BrokenPipeError):
            raise SystemExit(output.CLOSED_PIPE) from None
        raise
    except (PerceptionEncoderError, OSError) as error:
        output.print_error(one_line(error) if isinstance(error, OSError) else error)
        raise SystemExit(output.ERROR) from None
