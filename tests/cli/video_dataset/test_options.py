"""The shared options are those of every command of an annotation project."""

from __future__ import annotations

import pytest

from perception_encoder.cli.annotation import Store


@pytest.mark.parametrize("command", ["assign", "progress", "export", "import"])
def test_every_command_takes_the_dataset_and_the_projects_file(run_pe, command: str) -> None:
    shown = run_pe("video-dataset", command, "--help").stdout
    assert "DATA" in shown and Store.__metadata__[0].help[:18] in shown
