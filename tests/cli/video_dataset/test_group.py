"""`pe video-dataset`: its commands."""

from __future__ import annotations

from perception_encoder.cli.video_dataset import COMMANDS


def test_it_lists_its_commands(run_pe) -> None:
    run = run_pe("video-dataset", "--help")
    assert run.status == 0 and all(f"│ {name} " in run.stdout for names in COMMANDS.values() for name in names)
    assert run_pe("video-dataset").status == 2
