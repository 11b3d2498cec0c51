"""`pe engine prompts`: the prompts with their hashes, or one as text."""

from __future__ import annotations

import json

from perception_encoder.cli import output
from perception_encoder.video_data_engine.prompts import load_prompt


def test_prompts_are_printed(run_pe) -> None:
    run = run_pe("engine", "prompts")
    assert run.status == output.OK
    for name in ("video_caption_v1", "video_caption_short_v1", "frame_caption_v1", "summary_v1"):
        assert f"{name}  {load_prompt(name).hash}\n" in run.stdout
    assert run_pe("engine", "prompts", "summary_v1").stdout == load_prompt("summary_v1").text + "\n"
    rows = json.loads(run_pe("engine", "prompts", "--json").stdout)
    assert {row["name"]: row["hash"] for row in rows}["summary_v1"] == load_prompt("summary_v1").hash


def test_an_unknown_prompt(run_pe) -> None:
    run = run_pe("engine", "prompts", "summary_v99")
    assert run.status == output.ERROR and "no prompt is called 'summary_v99'" in run.stderr
