"""`pe data`: its commands."""

from __future__ import annotations


def test_it_lists_its_commands(run_pe) -> None:
    run = run_pe("data", "--help")
    assert run.status == 0 and all(f"│ {name} " in run.stdout for name in ("shards", "prepare", "furniture", "scenes"))
    assert run_pe("data").status == 2
