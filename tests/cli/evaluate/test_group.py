"""`pe eval`: its commands, by what they evaluate."""

from __future__ import annotations

import re

from perception_encoder.cli.evaluate import COMMANDS


def test_its_commands_stand_under_headings(run_pe) -> None:
    run = run_pe("eval", "--help")
    assert run.status == 0
    assert re.findall(r"^╭─ (.*?) ─", run.stdout, flags=re.MULTILINE) == ["Options", *COMMANDS]
    assert run_pe("eval").status == 2
