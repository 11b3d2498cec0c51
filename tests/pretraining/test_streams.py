"""A run from shards: the whole vocabulary, bad samples counted, the same losses on other ranks and after a resume."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.data.packing import ShardSize, pack
from perception_encoder.data.streams import Shards, StreamConfig
from perception_encoder.errors import CheckpointError, ConfigError, DataError
from perception_encoder.models.checkpoints.weights import create_model, load_model
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining.builtin.recipe import builtin
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.pretraining.run import PretrainingConfig, pretrain
from perception_encoder.recipes.catalog import find_recipe
from perception_encoder.recipes.kinds import debug_form, debug_pretraining
from tests import processes
from tests.clips import clip
from tests.data.tars import write_tar
from tests.pretraining.test_parallel import FLOAT32
from tests.processes import pe


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one tar of 40 small pictures, among them a damaged one, and a cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    rng, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
        (folder / f"{number}.txt").write_text(f"the picture with the number {number}, " + "and so on " * (number % 20))
    pack(folder, tmp_path / "shards", ShardSize(samples=100))
    content = (tmp_path / "shards" / "00000.tar").read_bytes()
    head = content.index(b"\xff\xd8\xff")
    (tmp_path / "shards" / "00000.tar").write_bytes(content[:head] + bytes(600) + content[head + 600 :])
    return tmp_path / "shards"


def debug(**settings: object) -> PretrainingConfig:
    return dataclasses.replace(debug_pretraining(builtin()), **settings)


def test_a_run_from_shards_trains_all_words_and_counts_what_it_left_out(shards: Path, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    path = pretrain(debug(), [Shards(str(shards))], tmp_path / "run", listener=rows.append)
    assert all(np.isfinite(row["contrastive"]) for row in rows)
    assert rows[-1]["left_out"] >= 1  # 64 pairs of 40
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["samples"] == {str(shards): 40}
    table = load_model(path).text.token_embedding.weight
    assert table[Tokenizer(32)("xylophone")[0, 1]].abs().max() > 0  # in no caption, but it may turn up in some shard
    assert table.shape == create_model("builtin").text.token_embedding.weight.shape


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tar of ten small videos, each with its caption as the video dataset has it (section 2.3)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    members = {}
    for number in range(10):
        said = {"human_caption": f"the clip with the number {number}", "duration": 0.5}
        members |= {f"{number}.mp4": clip(count=6 + number), f"{number}.json": json.dumps(said).encode()}
    return write_tar(tmp_path / "clips.tar", members)


def test_a_run_on_videos(clips: Path, photos: Path, tmp_path: Path) -> None:
    config = debug_form(find_recipe("video_finetune_b16"))
    assert isinstance(config, PretrainingConfig) and config.frames == 2
    config = dataclasses.replace(config, streams=StreamConfig(captions={"human_caption": 1.0}))
    rows: list[dict[str, float]] = []
    path = pretrain(config, [Shards(str(clips))], tmp_path / "run", listener=rows.append)
    assert load_model(path).name == "PE-Core-N16-128"
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(np.isfinite(row["contrastive"]) for row in rows)
    with pytest.raises(DataError, match="give --shards"):
        pretrain(config, [photos], tmp_path / "other")
    with pytest.raises(DataError, match="no pictures with captions"):
        pretrain(dataclasses.replace(config, frames=None), [Shards(str(clips))], tmp_path / "other")
    with pytest.raises(ConfigError, match="videos have no masked copies"):
        dataclasses.replace(config, masking=MaskRegularization())


def test_other_shards_or_settings_are_another_run(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(debug(), [Shards(str(shards))], out)
    pretrain(debug(), [Shards(str(shards / "*.tar"))], out)  # the same tars by another name
    for config, data in (
        (debug(), [Shards(str(shards), 2.0)]),
        (debug(streams=StreamConfig(resampled=True)), [Shards(str(shards))]),
    ):
        with pytest.raises(CheckpointError, match="other settings or other data"):
            pretrain(config, data, out)
    with pytest.raises(DataError, match="give one kind"):
        pretrain(debug(), [Shards(str(shards)), tmp_path], out)


def test_more_bad_samples_than_are_allowed_end_the_run(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"more than bad_share=0 of them .*cannot be decoded|is not an image"):
        pretrain(debug(streams=StreamConfig(bad_share=0.0)), [Shards(str(shards))], tmp_path / "run")


def train(shards: Path, out: Path, ranks: int | None) -> list[tuple[float, ...]]:
    """The rows of a run by `pe train`: step, losses, samples left out."""
    arguments = ["train", "builtin", "--debug", "--out", str(out), "--shards", str(shards), "--set", "masking.every=4"]
    environment = {**FLOAT32, "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
    processes.run(pe, *arguments, log=out.with_name(f"{out.name}.log"), ranks=ranks, environment=environment)
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["contrastive"], row["mask"], row.get("left_out", 0)) for row in rows]


def test_ranks_train_on_one_shard_as_one_process_and_go_on_where_others_stopped(shards: Path, tmp_path: Path) -> None:
    one = train(shards, tmp_path / "one", None)
    expected = [pytest.approx(row, rel=5e-5) for row in one]
    assert train(shards, tmp_path / "two", 2) == expected
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000004")
    resumed = train(shards, tmp_path / "two", None)
    assert [row[:3] for row in resumed] == [pytest.approx(row[:3], rel=5e-5) for row in one]
