"""`pe search --preview` in a terminal, in a pipe, and without textual-image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")


def in_terminal(*arguments: str | Path, code: str = "pass", interactive: bool = True) -> str:
    """What `pe` prints on a terminal that answers no query about graphics."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 120))
    script = f"import sys; {code}; from perception_encoder.cli.main import main; main(sys.argv[1:])"
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=slave if interactive else subprocess.DEVNULL,
        stdout=slave,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    os.close(slave)
    printed = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # the end, on Linux
            break
        if not part:
            break
        printed += part
    os.close(master)
    process.wait()
    return printed.decode(errors="replace")


@pytest.fixture
def search(image_files: list[Path], checkpoint: Path) -> tuple[str | Path, ...]:
    """The arguments of a search of twenty images."""
    return ("search", "a cat", image_files[0].parent, "--model", checkpoint, "--top", "2")


def test_a_terminal_shows_thumbnails_with_and_without_an_index(run_pe, search: tuple[str | Path, ...]) -> None:
    pytest.importorskip("textual_image")
    for indexed in (False, True):
        if indexed:
            assert run_pe("index", search[2], "--model", search[4]).status == 0
        printed = in_terminal(*search, "--preview")
        assert printed.count("▀") + printed.count("▄") > 100, printed
        assert printed.count(".jpg") == 2 and "Traceback" not in printed
    printed = in_terminal(*search, "--preview", interactive=False)
    assert not {"▀", "▄"} & set(printed) and printed.count(".jpg") == 2 and "Traceback" not in printed


def test_a_pipe_gets_the_table_alone(run_pe, search: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_image", None)  # not even imported
    plain, with_preview = run_pe(*search), run_pe(*search, "--preview")
    assert with_preview.status == 0 and with_preview.stdout == plain.stdout


def test_without_the_library_one_line_names_the_extra(search: tuple[str | Path, ...]) -> None:
    printed = in_terminal(*search, "--preview", code="sys.modules['textual_image'] = None")
    assert "textual_image" in printed and "[search]" in printed and "Traceback" not in printed
