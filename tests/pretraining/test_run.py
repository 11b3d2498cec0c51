"""A pretraining run end to end on made-up shards: it runs, resumes to the same weights, and names what is wrong."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.errors import CheckpointError, ConfigError, DataError
from perception_encoder.formats.shards import ShardSample, read_shard
from perception_encoder.models.checkpoints.weights import create_model, load_model, weight_hash, write_checkpoint
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining import run
from perception_encoder.pretraining.run import pretrain
from perception_encoder.training.loop import Section
from synthetic.shards import write_shard
from tests.pretraining.toys import debug


def test_a_run_writes_weights_that_load(photos: Path, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    path = pretrain(debug(), [photos], tmp_path / "run", listener=rows.append)
    model = load_model(path)
    assert model.name == "PE-Core-N16-128"
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(row["contrastive"]) for row in rows)
    assert [row["seconds_left"] == 0 for row in rows] == [False] * 3 + [True]
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"]["seed"] == 0
    assert record["weight_hash"] == weight_hash(model)
    assert set(record["samples"]) == {"caltech101", "flowers"}
    assert path.stat().st_size < 36e6
    table = model.text.token_embedding.weight
    rows = Tokenizer(32)("a photo of a cup").unique()
    assert table[rows[1:]].abs().sum(1).min() > 0  # rows[0] is padding
    assert table[Tokenizer(32)("xylophone")[0, 1]].abs().max() == 0  # in no caption: adds nothing
    random = create_model("builtin")
    assert not torch.allclose(random.visual.conv1.weight, model.visual.conv1.weight, atol=1e-4)


def test_fresh_positions_are_as_large_as_they_are_drawn(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first resolution, of 4 patches a side; resampled from the last one's 8 they would have shrunk to half."""
    stages = (ResolutionStage(image_size=64, steps=2), ResolutionStage(image_size=128, steps=2))
    config = dataclasses.replace(debug(), stages=stages, masking=None)
    tables: list[torch.Tensor] = []

    def look(section: Section, *rest: object) -> None:
        tables.append(section.task.model.clip.visual.positional_embedding.detach().clone())

    monkeypatch.setattr("perception_encoder.training.run.train_steps", look)
    pretrain(config, [photos], tmp_path / "run")
    width = create_model("builtin").visual.config.width
    assert [table.shape for table in tables] == [(17, width), (65, width)]
    assert tables[0].std().item() == pytest.approx(width**-0.5, rel=0.05)
    fresh = run.build_model(config).visual
    assert fresh.config.image_size == 64 and torch.equal(tables[0], fresh.positional_embedding)


def test_weights_for_going_on_are_written_without_loss(photos: Path, tmp_path: Path) -> None:
    """They are those of the last checkpoint, and of the same run's weights for use, before rounding."""
    use, whole = debug(), dataclasses.replace(debug(), half=False)
    paths = [pretrain(config, [photos], tmp_path / str(config.half)) for config in (use, whole)]
    full, rounded = (load_file(path) for path in reversed(paths))
    assert {tensor.dtype for tensor in full.values()} == {torch.float32}
    assert rounded["visual.conv1.weight"].dtype == torch.float16
    assert torch.equal(full["visual.conv1.weight"].half(), rounded["visual.conv1.weight"])
    assert not torch.equal(full["visual.conv1.weight"], rounded["visual.conv1.weight"].float())
    state = {"model/clip.visual.conv1.weight": torch.empty_like(full["visual.conv1.weight"])}
    with warnings.catch_warnings(action="ignore"):  # that one process is alone
        dcp.load(state, checkpoint_id=tmp_path / "False" / "checkpoints" / "step-00000004")
    assert torch.equal(full["visual.conv1.weight"], state["model/clip.visual.conv1.weight"])


def test_a_refused_run_leaves_the_other_one_s_record(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(debug(), [photos], tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    changed = dataclasses.replace(debug(), batch_size=8, optimizer=dataclasses.replace(debug().optimizer, lr=0.5))
    with pytest.raises(CheckpointError, match="batch_size was 16, is now 8") as refused:
        pretrain(changed, [photos], tmp_path / "run")
    assert "optimizer.lr was 0.003, is now 0.5" in str(refused.value) and "seed" not in str(refused.value)
    picture = next(iter(read_shard(photos / "train.tar"))).image
    more = ShardSample("more", "png", picture, {"source": "noto", "label": "wig"})
    write_shard(tmp_path / "drawings" / "train.tar", [more])
    with pytest.raises(CheckpointError, match="other settings or other data"):
        pretrain(debug(), [photos, tmp_path / "drawings"], tmp_path / "run")
    key = debug().fingerprint()
    monkeypatch.setattr(run, "PROCEDURE", run.PROCEDURE + 1)
    with pytest.raises(CheckpointError, match="of a version that trains differently"):
        pretrain(debug(), [photos], tmp_path / "run")
    assert debug().fingerprint() == key  # by which published results refer to runs
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_weights_that_come_out_may_be_a_mean_of_both_ends(photos: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(debug(), initial="builtin", warmup=0, half=False)
    end = load_model(pretrain(config, [photos], tmp_path / "end"))
    mean = load_model(pretrain(dataclasses.replace(config, initial_share=0.25), [photos], tmp_path / "mean"))
    begin = load_model("builtin")
    begin.visual.set_image_size(debug().stages[-1].image_size)
    ends, begins = end.state_dict(), begin.state_dict()
    for name, value in mean.state_dict().items():
        share = 0 if name == "logit_scale" else 0.25
        torch.testing.assert_close(value, (1 - share) * ends[name] + share * begins[name], msg=name)
    assert not torch.allclose(ends["visual.conv1.weight"], begins["visual.conv1.weight"], atol=1e-4)


def test_what_does_not_fit_is_named_before_any_step(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "PE-Spatial-T16-512.safetensors"
    write_checkpoint(create_model("PE-Spatial-T16-512"), other)
    for changes, error, message in (
        ({"model": "PE-Spatial-T16-512"}, ConfigError, "has no text tower"),
        ({"initial": str(other)}, ConfigError, "which is PE-Spatial-T16-512; the run trains PE-Core-N16-128"),
        ({"initial": str(other), "model": None}, ConfigError, "no text tower; training on pairs needs both"),
        ({"teacher": str(other), "masking": None}, ConfigError, "no text tower; use a Core model"),
        ({"weights": {"noto": 1.0}}, DataError, "the data lack the sources noto"),
        ({"warmup": 5}, ConfigError, "warmup is 5; it must be at most the steps of the run, 4"),
    ):
        with pytest.raises(error, match=message):
            pretrain(dataclasses.replace(debug(), **changes), [photos], tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.jsonl"))
