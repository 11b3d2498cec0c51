"""`pe data`: its commands."""

from __future__ import annotations


def test_it_lists_its_commands(run_pe) -> None:
    run = run_pe("data", "--help")
    names = "shards", "prepare", "furniture", "scenes", "documents"
    assert run.status == 0 and all(f"│ {name} " in run.stdout for name in names)
    assert run_pe("data").status == 2
