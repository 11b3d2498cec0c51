"""The groups of commands: help texts, late imports, unknown names."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from perception_encoder.cli import main, options, output


def commands(group: Any = None, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    group = group or typer.main.get_command(main.app)
    result = {}
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        result[(*words, name)] = command
        if hasattr(command, "list_commands"):
            result |= commands(command, (*words, name))
    return result


COMMANDS = commands()


def test_every_help_has_examples_of_its_own_and_no_python_types(run_pe) -> None:
    for words in COMMANDS:
        run, name = run_pe(*words, "--help"), " ".join(words)
        assert run.status == 0, name
        assert re.search(rf"^ +pe {name}\b", run.stdout.partition("Examples:")[2], flags=re.MULTILINE), name
        assert "-completion" not in run.stdout, name  # typer's own options
        assert not re.search(r"list\[|<(?=[A-Za-z])(?![\w|]+\|)|Path\]", run.stdout), name
        (usage,) = re.findall(r"^ Usage: (.*)$", run.stdout, flags=re.MULTILINE)
        assert not re.search(r"[{}<>]", usage), name


def test_the_first_help_shows_twelve_commands_and_the_long_one_all(run_pe) -> None:
    names = {name for group in main.COMMANDS.values() for name in group}
    listed = re.compile(r"^│ ([a-z][\w-]*) ", re.MULTILINE)
    shown = {flag: listed.findall(run_pe(flag).stdout) for flag in ("--help", "--help-all")}
    assert set(shown["--help"]) == set(main.FIRST) and len(shown["--help"]) == 12
    assert set(shown["--help-all"]) == names and len(shown["--help-all"]) == len(names)
    assert run_pe("near-duplicates", "--help").status == 0  # the others are commands all the same
    assert "knn" in run_pe("eval", "--help").stdout


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (("eval", "knn"), "pe eval knn [OPTIONS] [-m] MODEL"),
        (("layers",), "pe layers [OPTIONS] [-m] MODEL"),
        (("convert",), "pe convert [OPTIONS] [-m] MODEL [-o] OUT"),
        (("export", "onnx"), "pe export onnx [OPTIONS] [-m] MODEL [-o] OUT"),
        (("export", "vectors"), "pe export vectors [OPTIONS] DIR [-o] OUT"),
        (("search",), "pe search [OPTIONS] [QUERY] [FILES]..."),
        (("index",), "pe index [OPTIONS] DIRS..."),
        (("serve",), "pe serve [OPTIONS] [DIR]"),
        (("ask",), "pe ask [OPTIONS] [MEDIA]... [QUESTION]"),
        (("eval", "questions"), "pe eval questions [OPTIONS] DATASET [-m] MODEL"),
    ],
)
def test_usage_lines_show_which_flags_may_be_left_out(run_pe, words: tuple[str, ...], usage: str) -> None:
    assert re.search(rf"^ Usage: {re.escape(usage)} *$", run_pe(*words, "--help").stdout, flags=re.MULTILINE)


def three_values(
    source: Annotated[Path, options.argument("PATH", "An argument.")],
    model: options.OwnModel,
    out: Annotated[Path, options.out_option("The output."), options.BY_POSITION],
) -> None:
    output.print_line(f"{source} {model} {out}")


@pytest.mark.parametrize(
    "arguments",
    ["s m o", "s m -o o", "s o -m m", "-m m s o", "--model=m s --out=o", "-o o -m m s", "s -o o m", "-mm -- s o"],
)
def test_flags_may_be_left_out(run_pe, add_command, arguments: str) -> None:
    add_command(three_values)
    run = run_pe("example", *arguments.split())
    assert (run.status, run.stdout) == (output.OK, "s m o\n"), run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("s", "Missing option '--model' / '-m'"),
        ("s m", "Missing option '--out' / '-o'"),
        ("s -o o", "Missing option '--model' / '-m'"),
        ("s m o -m n", "unexpected extra argument"),
        ("s m o extra", "unexpected extra argument"),
        ("s m o --half", "--half"),
    ],
)
def test_a_missing_or_repeated_value_is_a_usage_error(run_pe, add_command, arguments: str, message: str) -> None:
    add_command(three_values)
    run = run_pe("example", *arguments.split())
    assert run.status == output.ERROR and message in run.stderr


def test_a_command_imports_no_other_family() -> None:
    code = "import sys; from perception_encoder.cli.main import main\n"
    code += "try: main(['eval', 'compare', '--help'])\nfinally: "
    code += "print(sorted(name for name in sys.modules if name.startswith('perception_encoder.cli.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    imported = {name.removeprefix("perception_encoder.cli.") for name in eval(done.stdout.splitlines()[-1])}
    shared = {"main", "groups", "output", "options"}
    assert imported == {*shared, "evaluate"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("modles",), "did you mean 'models'?"),
        (("eval", "knm"), "did you mean 'knn'?"),
    ],
)
def test_an_unknown_command_shows_what_to_type(run_pe, words: tuple[str, ...], message: str) -> None:
    run = run_pe(*words)
    assert run.status == output.ERROR and message in run.stderr


@pytest.mark.parametrize("name", ["search", "index", "serve", "detect", "eval knn"])
def test_help_shows_the_options_of_its_examples(name: str, run_pe) -> None:
    text = run_pe(*name.split(), "--help").stdout
    examples, _, options = text.partition("Examples:")[2].partition("╭")
    lines = re.sub(r"\n +(?! |pe )", " ", examples).splitlines()
    used = {option for line in lines if f" pe {name} " in line for option in re.findall(r" (--[a-z-]+)", line)}
    assert used and {option for option in used if not re.search(rf" {option}\b", options)} == set()


def test_help_all_shows_the_advanced_options_too(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def paint(
        size: Annotated[int, options.option("Pixels of a side.")] = 8,
        gamma: Annotated[float, options.option("Exponent of the tone curve.", advanced=True)] = 2.2,
        dither: Annotated[bool, options.flag("--dither", "Spread rounding errors.", advanced=True)] = False,
    ) -> None:
        output.print_line(f"{size} {gamma} {dither}")

    def run(*arguments: str) -> str:
        with contextlib.suppress(SystemExit):
            main.run_program(app, arguments, "paint")
        return capsys.readouterr().out

    usual, whole = run("--help"), run("--help-all")
    assert "--size" in usual and "--help-all" in usual and "--gamma" not in usual
    assert all(name in whole for name in ("--size", "--gamma", "--dither")) and "--help-all" not in whole
    assert run("--gamma", "1.5", "--dither") == "8 1.5 True\n"
