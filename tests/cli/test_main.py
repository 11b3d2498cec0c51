"""The shell around the commands: help, quickness, one-line errors, exit statuses."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import warnings

import pytest

from perception_encoder.cli import main, output
from perception_encoder.errors import MediaDecodeError, ShapeError
from tests.cli.test_groups import COMMANDS
from tests.conftest import ROOT


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)


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


@pytest.mark.parametrize("arguments", [("models",), ("models", "--json"), ("--help",)])
def test_a_closed_pipe_is_not_skipped_inputs(arguments: tuple[str, ...]) -> None:
    """As `pe models | head -1`: tables, plain lines and help are written in different ways."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "perception_encoder", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_help_begins_with_its_purpose_and_ends_with_exit_statuses(run_pe) -> None:
    text = run_pe("--help").stdout
    before, _, statuses = text.partition("Exit status:")
    assert text.index("Search, classify, embed and describe") < before.index("Examples:") < before.rindex("╰")
    assert "130 stopped by Ctrl-C" in " ".join(statuses.split()) and "╭" not in statuses
    assert "\n  pe COMMAND --help  " in before  # examples keep their lines


def test_no_command_imports_what_is_slow_before_it_runs() -> None:
    code = "import sys; from tests.cli.test_groups import COMMANDS; print(len(COMMANDS), sorted("
    code += "{'torch', 'numpy', 'PIL', 'av', 'pyarrow', 'fastapi', 'lancedb'} & sys.modules.keys()))"
    done = python(code)
    assert done.stdout == f"{len(COMMANDS)} []\n", done.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ShapeError("size 225x224\nis [no] multiple of 14"), "error: size 225x224 is [no] multiple of 14\n"),
        (MediaDecodeError("a\x1b[31m\udcff.jpg", "empty"), "error: a\\x1b[31m\\udcff.jpg: empty\n"),
        (OSError(errno.ENOSPC, "No space left on device", "o.npy"), "error: No space left on device: 'o.npy'\n"),
    ],
)
def test_a_typed_error_is_one_line(run_pe, add_command, error: Exception, message: str) -> None:
    def fail() -> None:
        raise error

    add_command(fail)
    run = run_pe("example")
    assert run.status == output.ERROR
    assert run.stderr.endswith(message)
    assert run.stderr.count("\n") == 1
    assert run.stdout == ""


def test_a_bug_keeps_its_traceback(add_command) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    add_command(fail)
    with pytest.raises(ZeroDivisionError):
        main.main(["example"])


def test_ctrl_c_has_its_own_status(run_pe, add_command) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    add_command(interrupted)
    assert run_pe("example").status == output.INTERRUPTED


def test_warnings_are_one_line(run_pe, add_command) -> None:
    def warn() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("the text was cut", stacklevel=1)

    add_command(warn)
    assert run_pe("example").stderr == "warning: the text was cut\n"


@pytest.mark.parametrize(("options", "message"), [([], ""), (["-v"], "loaded\n")])
def test_verbose_shows_what_is_done(run_pe, add_command, options: list[str], message: str) -> None:
    add_command(lambda: logging.getLogger("perception_encoder.example").info("loaded"))
    assert run_pe(*options, "example").stderr == message


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
        "main(['train', 'core_n16', '--data', 'missing'])\n"
    )
    names = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= given | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == f"policy:{expected}", done.stderr


def test_the_hub_s_retries_are_printed_once() -> None:
    script = """
import sys
from perception_encoder.cli.main import main
try:
    main(["models", "list"])
except SystemExit:
    pass
from huggingface_hub.utils import logging
logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
"""
    done = python(script)
    assert done.stderr.count("Retrying in 1s") == 1
