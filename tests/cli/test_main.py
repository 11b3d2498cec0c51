"""The shell around the verbs: help, quickness, one-line errors, exit statuses."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable

import pytest
import typer

from perception_encoder import __version__
from perception_encoder.cli import main, output
from perception_encoder.errors import MediaDecodeError, ShapeError
from perception_encoder.models.registry import list_models
from tests.conftest import ROOT


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Add a verb `example` whose only command is the given function."""

    def add(function: Callable[[], None]) -> None:
        module = types.ModuleType("example_verb")
        module.app = typer.Typer()
        module.app.command()(function)
        monkeypatch.setitem(sys.modules, "example_verb", module)
        monkeypatch.setitem(main.VERBS, "example", "example_verb")

    return add


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_help_lists_every_verb(run_pe) -> None:
    run = run_pe("--help")
    assert run.status == 0
    assert all(name in run.stdout for name in main.VERBS)


def commands() -> list[list[str]]:
    """Return every command of `pe`, as words: ["models"], ["data", "prepare"], …"""
    group = typer.main.get_command(main.app)
    verbs = {name: group.get_command(None, name) for name in main.VERBS}
    leaves = []
    for name, verb in verbs.items():
        leaves += [[name, sub] for sub in verb.commands] if hasattr(verb, "commands") else [[name]]
    return leaves


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_shows_examples(run_pe, words: list[str]) -> None:
    run = run_pe(*words, "--help")
    assert run.status == 0
    examples = run.stdout.partition("Examples:")[2]
    assert f"pe {' '.join(words)}" in examples
    assert "completion" not in run.stdout


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys; from perception_encoder.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    seconds = []
    for _ in range(3):
        before = os.times()
        done = python(code + "print(sorted({'torch', 'numpy', 'PIL', 'av', 'pyarrow'} & sys.modules.keys()))")
        after = os.times()  # of the processor: others are at work
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert done.stdout.splitlines()[-1] == "[]"
    assert min(seconds) < 0.5


def test_version(run_pe) -> None:
    assert run_pe("--version").stdout == f"pe {__version__}\n"


def test_module_runs_as_installed_command() -> None:
    command = "entry_points(group='console_scripts')['pe'].load()(['models'])"
    done = python(f"from importlib.metadata import entry_points; {command}")
    assert done.returncode == 0
    assert "PE-Core-L14-336" in done.stdout


def test_an_unknown_verb_shows_the_nearest(run_pe) -> None:
    run = run_pe("modles")
    assert run.status == output.ERROR
    assert "did you mean 'models'?" in run.stderr


def test_an_unknown_option_is_a_usage_error(run_pe) -> None:
    assert run_pe("models", "--colour").status == output.ERROR


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ShapeError("size 225x224\nis [no] multiple of 14"), "error: size 225x224 is [no] multiple of 14\n"),
        (MediaDecodeError("a\x1b[31m\udcff.jpg", "empty"), "error: a\\x1b[31m\\udcff.jpg: empty\n"),
        (OSError(errno.ENOSPC, "No space left on device", "o.npy"), "[Errno 28] No space left on device: 'o.npy'\n"),
    ],
)
def test_a_typed_error_is_one_line(run_pe, verb, error: Exception, said: str) -> None:
    def fail() -> None:
        raise error

    verb(fail)
    run = run_pe("example")
    assert run.status == output.ERROR
    assert run.stderr.endswith(said)
    assert run.stderr.count("\n") == 1
    assert run.stdout == ""


def test_a_bug_keeps_its_traceback(verb) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    verb(fail)
    with pytest.raises(ZeroDivisionError):
        main.main(["example"])


def test_ctrl_c_has_its_own_status(run_pe, verb) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    verb(interrupted)
    assert run_pe("example").status == output.INTERRUPTED


def test_a_closed_pipe_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "from perception_encoder.cli.main import main; main(['models', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert "Traceback" not in done.stderr


def test_skipped_inputs_are_listed_and_change_the_status(run_pe, verb) -> None:
    def some_fail() -> None:
        failures = [MediaDecodeError("a.jpg", "truncated"), MediaDecodeError("b.jpg", "empty")]
        raise typer.Exit(output.report_skipped(failures, total=5))

    verb(some_fail)
    run = run_pe("example")
    assert run.status == output.SOME_SKIPPED
    assert run.stderr == (
        "warning: skipped a.jpg: truncated\nwarning: skipped b.jpg: empty\nwarning: 2 of 5 inputs skipped\n"
    )
    assert output.report_skipped([], total=5) == output.OK


@pytest.mark.parametrize(
    ("bad", "total", "strict", "status"),
    [(0, 5, True, 0), (0, 0, False, 0), (2, 5, False, 0), (2, 5, True, 1), (5, 5, False, 2), (5, 5, True, 2)],
)
def test_a_bad_input_among_good_ones_is_no_error_but_under_strict(
    bad: int, total: int, strict: bool, status: int
) -> None:
    assert output.input_status([MediaDecodeError("a.jpg", "empty")] * bad, total, strict) == status


def test_warnings_are_one_line(run_pe, verb) -> None:
    def warn() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("the text was cut", stacklevel=1)

    verb(warn)
    assert run_pe("example").stderr == "warning: the text was cut\n"


@pytest.mark.parametrize(("options", "said"), [([], ""), (["-v"], "loaded\n")])
def test_verbose_shows_what_is_done(run_pe, verb, options: list[str], said: str) -> None:
    verb(lambda: logging.getLogger("perception_encoder.example").info("loaded"))
    assert run_pe(*options, "example").stderr == said


def test_tables_take_names_as_they_are(capsys) -> None:
    output.print_table(("score", "name"), [("0.5", "a [bold]b[/].jpg"), ("–", "\udcff.jpg")])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["score  name", "0.5  a [bold]b[/].jpg", "–  \\udcff.jpg"]


def test_models_lists_all(run_pe) -> None:
    table = run_pe("models").stdout
    assert all(name in table for name in list_models())


def test_models_as_json(run_pe) -> None:
    (entry,) = json.loads(run_pe("models", "PE-Core-L-14-336", "--json").stdout)
    assert entry["name"] == "PE-Core-L14-336"
    assert entry["vision"]["width"] == 1024
    assert "vit_pe_core_large_patch14_336.fb" in entry["aliases"]


def test_models_shows_near_names_of_an_unknown_one(run_pe) -> None:
    run = run_pe("models", "PE-Core-L14-224")
    assert run.status == output.ERROR
    assert "PE-Core-L14-336" in run.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "1000"}, ""),
        ({"KMP_BLOCKTIME": "0"}, ""),
    ],
)
def test_openmp_waits_passively_before_torch_is_imported_unless_told_otherwise(
    given: dict[str, str], expected: str
) -> None:
    program = (
        "import os, sys, importlib.abc\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch':\n"
        "            print('policy:' + os.environ.get('OMP_WAIT_POLICY', ''), flush=True)\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from perception_encoder.cli.main import main\n"
        "main(['train', 'builtin', '--data', 'nowhere'])\n"
    )
    names = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= given | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == f"policy:{expected}", done.stderr
