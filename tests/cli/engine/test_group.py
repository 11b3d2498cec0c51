"""`pe engine`: its commands."""

from __future__ import annotations

from perception_encoder.cli.engine import COMMANDS


def test_the_help_lists_the_commands(run_pe) -> None:
    run = run_pe("engine", "--help")
    assert run.status == 0
    assert all(name in run.stdout for names in COMMANDS.values() for name in names)
