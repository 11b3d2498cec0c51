"""`pe data`: its commands."""

from __future__ import annotations


def test_it_lists_its_commands(run_pe) -> None:
    run = run_pe("data", "--help")
    names = "shards", "masks"
    assert run.status == 0 and all(f"│ {name} " in run.stdout for name in names)
    assert run_pe("data").status == 2


def test_a_command_that_moved_to_the_workshop_is_unknown(run_pe) -> None:
    run = run_pe("data", "scenes", "-o", "scenes")
    assert run.status == 2 and "no such command: 'scenes'" in run.stderr
