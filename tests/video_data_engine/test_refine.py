"""A captioner is finetuned on corrected captions of an engine's clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.language_alignment.load import load_language_model
from perception_encoder.video_data_engine.refine import refine_captioner
from perception_encoder.video_data_engine.run import caption_videos
from tests.cli.language.conftest import language_run
from tests.video_data_engine.conftest import ECHOES, QUICK
from tests.video_data_engine.test_run import rows

__all__ = ["language_run"]


def test_the_captioner_learns_from_corrected_captions(add_video, tmp_path: Path, language_run: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; install the extra train")
    add_video("a")
    out = tmp_path / "out"
    config = replace(ECHOES, longest=1.5, shortest=0.5)
    caption_videos([tmp_path / "videos"], out, config, QUICK)
    keys = sorted(rows(out))
    assert len(keys) == 2
    table = tmp_path / "corrected.csv"
    table.write_text(f'video_id,human_caption\n{keys[0]},"a cup, falling"\n{keys[1]},чашка\n')
    few = {"steps": 2, "batch_size": 2, "frames": 2, "warmup": 0, "validation": None}
    losses: list[float] = []
    run = tmp_path / "run"
    weights = refine_captioner(
        out, run, table, language_run, settings=few, listener=lambda row: losses.append(row["next_token"])
    )
    lines = [json.loads(line) for line in (run / "conversations.jsonl").read_text().splitlines()]
    assert [line["conversations"][1]["value"] for line in lines] == ["a cup, falling", "чашка"]
    assert lines[0]["conversations"][0]["value"].startswith("<video>\nDescribe this video in detail.")
    assert all((run / line["video"]).is_file() for line in lines)
    assert weights == run / "language.safetensors" and losses
    assert load_language_model(run).name == "run"


def test_what_cannot_be_refined(add_video, tmp_path: Path, language_run: Path) -> None:
    add_video("a")
    out, table = tmp_path / "out", tmp_path / "corrected.csv"
    table.write_text("video_id,human_caption\nother,a cup\n")
    with pytest.raises(DataError, match="is not an output of `pe engine run`"):
        refine_captioner(tmp_path, tmp_path / "run", table, language_run)
    caption_videos([tmp_path / "videos"], out, ECHOES, QUICK)
    with pytest.raises(DataError, match="caption of other, but the engine's shards have no such clip"):
        refine_captioner(out, tmp_path / "run", table, language_run)
    table.write_text("video_id,human_caption\nother,\n")
    with pytest.raises(DataError, match="has no corrected caption"):
        refine_captioner(out, tmp_path / "run", table, language_run)
    with pytest.raises(ConfigError, match="was not trained by this package"):
        refine_captioner(out, tmp_path / "run", {"a": "a cup"}, "facebook/Perception-LM-1B")
