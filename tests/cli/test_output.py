"""What is printed: tables for terminals and for pipes, paths as they are, and what was skipped."""

from __future__ import annotations

import json
import os

import pytest
import typer

from perception_encoder.cli import output
from perception_encoder.cli.output import live_line
from perception_encoder.errors import MediaDecodeError

ROWS = [("0.5", "a [bold]b[/].jpg"), ("–", "\udcff.jpg"), ("2", "a\tb " + "c" * 200)]


def test_a_terminal_gets_a_title_and_aligned_columns(terminal, capsys) -> None:
    output.print_table(("score", "name"), ROWS[:2], title="two files")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["two files", "score  name", "  0.5  a [bold]b[/].jpg", "    –  \\udcff.jpg"]


def test_a_pipe_gets_tab_separated_values_under_one_header_line(capsys) -> None:
    output.print_table(("score", "name"), ROWS, title="three files")
    assert capsys.readouterr().out.splitlines() == [
        "score\tname",
        "0.5\ta [bold]b[/].jpg",
        "\t\\udcff.jpg",
        "2\ta\\tb " + "c" * 200,
    ]


def test_remarks_stand_below_the_results_on_a_terminal_and_never_in_a_pipe(request, capsys) -> None:
    output.print_remark("a small demo")
    assert capsys.readouterr() == ("", "note: a small demo\n")
    request.getfixturevalue("terminal")
    output.print_remark("a small demo")
    assert capsys.readouterr() == ("a small demo\n", "")


def test_a_text_is_printed_piece_by_piece(capsys) -> None:
    printed: list[str] = []

    def pieces():
        for piece in ("a\n", "b\x1b[1m", "\x0c", ""):
            yield piece
            printed.append(capsys.readouterr().out)

    assert output.print_pieces(pieces()) == "a\nb\x1b[1m\x0c"
    assert printed == ["a\n", "b\\x1b[1m", "\\x0c", ""] and capsys.readouterr().out == "\n"


def test_paths_are_printed_once_and_unchanged(capfdbinary) -> None:
    output.print_paths(["a b.jpg", os.fsdecode(b"caf\xe9.jpg"), "a b.jpg"])
    output.sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"a b.jpg\0caf\xe9.jpg\0"


def test_skipped_inputs_are_listed_and_change_the_status(run_pe, add_command) -> None:
    def some_fail() -> None:
        failures = [MediaDecodeError("a.jpg", "truncated"), MediaDecodeError("b.jpg", "empty")]
        raise typer.Exit(output.report_skipped(failures, total=5))

    add_command(some_fail)
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
def test_a_bad_input_among_good_ones_changes_the_status_only_under_strict(
    bad: int, total: int, strict: bool, status: int
) -> None:
    with pytest.raises(typer.Exit) as stop:
        output.exit_with_skipped([MediaDecodeError("a.jpg", "empty")] * bad, total - bad, strict)
    assert stop.value.exit_code == status


def test_json_has_no_values_that_json_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    """Statistics of nothing are NaN, which other languages' readers refuse."""
    output.print_json({"mean": float("nan"), "rows": [(float("inf"), 1.5, True, None)], 3: "NaN"})
    printed = capsys.readouterr().out
    found = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is printed"))
    assert found == {"mean": None, "rows": [[None, 1.5, True, None]], "3": "NaN"}


def test_a_report_of_the_loop_is_one_line_with_the_time_that_is_left() -> None:
    row = {"step": 20, "contrastive": 4.2, "samples_per_second": 131.5, "lr": 0.003, "logit_scale": 14.3}
    line = live_line(row | {"seconds_left": 2 * 3600 + 5 * 60 + 59})
    assert line == "step 20  contrastive 4.2  samples/s 131.5  lr 0.003  logit_scale 14.3  2:05 h left"
    assert live_line({"step": 1}) == "step 1"
