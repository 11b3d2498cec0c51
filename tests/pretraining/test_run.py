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
from PIL import Image
from safetensors.torch import load_file

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.data.image_text import ImageTextSet
from perception_encoder.data.pairs import PairBatches, Stage, alone, true_pairs
from perception_encoder.errors import CheckpointError, ConfigError, DataError
from perception_encoder.formats.shards import ShardSample, read_shard, write_shard
from perception_encoder.models.checkpoints.weights import create_model, load_model, weight_hash, write_checkpoint
from perception_encoder.models.text_transformer import TextTransformer
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining import run
from perception_encoder.pretraining.builtin.recipe import builtin, debug
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.pretraining.run import pretrain
from perception_encoder.pretraining.sources import open_sources
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers, encode_by_length
from perception_encoder.progress import untracked
from perception_encoder.ranks import ALONE
from perception_encoder.recipes.catalog import find_recipe
from perception_encoder.recipes.kinds import debug_form


def test_a_run_writes_weights_that_load(photos: Path, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    path = pretrain(debug(), [photos], tmp_path / "run", listener=rows.append)
    model = load_model(path)
    assert model.name == "PE-Core-N16-128"
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(row["contrastive"]) for row in rows)
    assert all(row["mfu"] > 0 for row in rows) and [row["seconds_left"] == 0 for row in rows] == [False] * 3 + [True]
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
    stages = (Stage(image_size=64, steps=2), Stage(image_size=128, steps=2))
    config = dataclasses.replace(debug(), stages=stages, masking=None)
    tables: list[torch.Tensor] = []

    def look(task: ContrastiveTask, *rest: object) -> None:
        tables.append(task.model.clip.visual.positional_embedding.detach().clone())

    monkeypatch.setattr(run, "train", look)
    pretrain(config, [photos], tmp_path / "run")
    width = create_model("builtin").visual.config.width
    assert [table.shape for table in tables] == [(17, width), (65, width)]
    assert tables[0].std().item() == pytest.approx(width**-0.5, rel=0.05)
    fresh = run.build_model(config).visual
    assert fresh.config.image_size == 64 and torch.equal(tables[0], fresh.positional_embedding)


def test_one_s_own_images_count_by_their_number_beside_the_weights(photos: Path, tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / "mine" / f"c{number}" / "a.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (9 * number, 0, 0)).save(path)
    (tmp_path / "words.csv").write_text("path,caption\nmine/c1/a.png,dark red\n")
    config = dataclasses.replace(debug(), weights={"flowers": 2.0, "noto": 1.0})

    def shares(*data: Path) -> dict[str, float]:
        sources = open_sources(config, data, run.build_model(config), ALONE, alone, untracked)
        return dict(zip(sources.samples, sources.weights, strict=True))

    mine, words = tmp_path / "mine", tmp_path / "words.csv"
    assert shares(photos) == {"flowers": 2.0}  # 20 pictures; Caltech-101's have no weight
    assert shares(photos, mine, words) == {"flowers": 2.0, "mine": pytest.approx(0.5), "words": pytest.approx(0.1)}
    assert shares(mine, words) == {"mine": 5.0, "words": 1.0}


@pytest.mark.parametrize("name", ["ablation_1", "core_b16_cooldown", "full_s14"])
def test_the_paper_s_runs_train_in_their_debug_form_on_whatever_sources_there_are(
    name: str, photos: Path, tmp_path: Path
) -> None:
    config = debug_form(find_recipe(name))
    path = pretrain(config, [photos], tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["samples"] == {"caltech101": 10, "flowers": 20}
    model = load_model(path)
    assert (model.visual.attn_pool is None) == (not config.attention_pool) and model.visual.config.rope == config.rope


def test_weights_for_going_on_are_written_without_loss(photos: Path, tmp_path: Path) -> None:
    """They are those of the last checkpoint, and of the same run's weights for use, before rounding."""
    use, whole = debug(), dataclasses.replace(debug(), half=False)
    paths = [pretrain(config, [photos], tmp_path / str(config.half)) for config in (use, whole)]
    kept, rounded = (load_file(path) for path in reversed(paths))
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert rounded["visual.conv1.weight"].dtype == torch.float16
    assert torch.equal(kept["visual.conv1.weight"].half(), rounded["visual.conv1.weight"])
    assert not torch.equal(kept["visual.conv1.weight"], rounded["visual.conv1.weight"].float())
    state = {"model/clip.visual.conv1.weight": torch.empty_like(kept["visual.conv1.weight"])}
    with warnings.catch_warnings(action="ignore"):  # that one process is alone
        dcp.load(state, checkpoint_id=tmp_path / "False" / "checkpoints" / "step-00000004")
    assert torch.equal(kept["visual.conv1.weight"], state["model/clip.visual.conv1.weight"])


def test_a_refused_run_leaves_the_other_one_s_record(photos: Path, tmp_path: Path) -> None:
    pretrain(debug(), [photos], tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(CheckpointError, match="other settings or other data"):
        pretrain(dataclasses.replace(debug(), batch_size=8), [photos], tmp_path / "run")
    picture = next(iter(read_shard(photos / "train.tar"))).image
    more = ShardSample("more", "png", picture, {"source": "noto", "label": "wig"})
    write_shard(tmp_path / "drawings" / "train.tar", [more])
    with pytest.raises(CheckpointError, match="other settings or other data"):
        pretrain(debug(), [photos, tmp_path / "drawings"], tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_a_run_that_another_procedure_began_is_not_resumed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(debug(), [photos], tmp_path)
    key = debug().fingerprint()
    monkeypatch.setattr(run, "PROCEDURE", run.PROCEDURE + 1)
    with pytest.raises(CheckpointError, match="of a version that trains otherwise"):
        pretrain(debug(), [photos], tmp_path)
    assert debug().fingerprint() == key  # by which published results refer to runs


def test_a_batch_is_a_pure_function_of_its_step(photos: Path) -> None:
    samples = ImageTextSet.from_folder([photos], "train")

    def make() -> PairBatches:
        stages = (Stage(image_size=32, steps=2), Stage(image_size=48, steps=2))
        return PairBatches([samples], [1.0], 12, stages, Augmentation(), Tokenizer(32), 5)

    forwards, backwards = make(), make()
    seen = {step: forwards(step) for step in range(4)}
    for step in reversed(range(4)):
        again = backwards(step)
        for name in ("pictures", "tokens", "image_positives", "text_positives"):
            assert torch.equal(getattr(seen[step], name), getattr(again, name))
    assert [seen[step].pictures.shape[-1] for step in range(4)] == [32, 32, 48, 48]
    assert not torch.equal(seen[0].pictures, seen[1].pictures)


def test_every_caption_and_picture_has_a_positive_and_true_pairs_are_found(photos: Path) -> None:
    samples = ImageTextSet(ImageTextSet.from_folder([photos], "train")[:8])
    texts = ["a photo of a cup.", "a photo of the cup.", "a photo of a rose.", "an ant"]
    positives = true_pairs([sample.captions for sample in samples], texts)
    for sample, row in zip(samples, positives.tolist(), strict=True):
        expected = {"cup": [True, True, False, False], "rose": [False, False, True, False]}
        expected |= {"ant": [False, False, False, True], "daisy": [False] * 4}
        assert row == expected[sample.label]
    batch = PairBatches([samples], [1.0], 8, (Stage(image_size=32, steps=1),), Augmentation(), Tokenizer(32), 0)(0)
    assert batch.image_positives.any(1).all() and batch.text_positives.any(1).all()
    assert torch.equal(batch.text_positives, batch.image_positives.T)


@torch.no_grad()
def test_captions_in_groups_of_like_length_encode_as_alone() -> None:
    model = create_model("builtin")
    tokens = Tokenizer(32)(["a", "a very long caption about nothing much at all", "two words", "x", "the end of it"])
    torch.testing.assert_close(encode_by_length(model, tokens), model.encode_text(tokens), rtol=1e-4, atol=1e-5)


def test_the_logit_scale_is_clamped() -> None:
    towers = Towers(create_model("builtin"))
    task = ContrastiveTask(towers)
    towers.clip.logit_scale.data.fill_(9.0)
    task.after_step()
    assert towers.clip.logit_scale.exp().item() == pytest.approx(100.0)


def test_training_fits_a_handful_of_pairs() -> None:
    """The loss falls to almost nothing on one batch: gradients reach both towers."""
    torch.manual_seed(0)
    task = ContrastiveTask(Towers(create_model("builtin")))
    pictures = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = ImageTextBatch(pictures, Tokenizer(32)(["a", "b", "c", "d"])[:, :4], *[torch.eye(4, dtype=torch.bool)] * 2)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = task.losses(batch)["contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < 0.5 < losses[0]


def test_wrong_settings_are_named_before_any_step(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no text tower"):
        pretrain(dataclasses.replace(debug(), model="PE-Spatial-T16-512"), [photos], tmp_path)
    with pytest.raises(DataError, match="no source of noto"):
        pretrain(dataclasses.replace(debug(), weights={"noto": 1.0}), [photos], tmp_path)
    with pytest.raises(ConfigError, match=r"initial_share is 1\.0; it must be at least 0 and below 1"):
        dataclasses.replace(debug(), initial="builtin", initial_share=1.0)
    with pytest.raises(ConfigError, match="has none to average with; set initial"):
        dataclasses.replace(debug(), initial_share=0.5)
    with pytest.raises(ConfigError, match="stages"):
        pretrain(dataclasses.replace(debug(), stages=()), [photos], tmp_path)


def test_the_builtin_recipe_is_complete() -> None:
    config = builtin()
    assert [stage.image_size for stage in config.stages] == [64, 96, 128]
    assert sum(config.weights.values()) == pytest.approx(1.0)
    assert "openmoji" not in config.weights


def test_a_run_may_begin_with_weights_and_lock_a_tower(photos: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(debug(), initial="builtin", locked="text", warmup=0)
    tuned = load_model(pretrain(config, [photos], tmp_path / "run")).state_dict()
    before = load_model("builtin")
    before.visual.set_image_size(debug().stages[-1].image_size)
    for name, value in before.state_dict().items():
        same = torch.allclose(tuned[name], value, atol=1e-3 * value.abs().max().item() + 1e-6)
        assert same or not name.startswith("text."), name
    assert not torch.equal(tuned["visual.conv1.weight"], load_model("builtin").visual.conv1.weight)


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


def test_a_locked_text_tower_encodes_each_caption_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data have 111 captions: features are kept where so many fit, and the run draws more pairs."""
    monkeypatch.setenv("PE_DTYPE", "float32")
    encode, encoded = TextTransformer.forward, list[int]()
    monkeypatch.setattr(TextTransformer, "forward", lambda self, ids: encoded.append(len(ids)) or encode(self, ids))

    def losses(most: int, batch_size: int) -> list[float]:
        encoded.clear()
        monkeypatch.setattr(run, "MOST", most)
        rows: list[dict[str, float]] = []
        config = dataclasses.replace(debug(), locked="text", batch_size=batch_size, masking=None)
        pretrain(config, [photos], tmp_path / f"{most}-{batch_size}", listener=rows.append)
        return [row["contrastive"] for row in rows]

    kept = losses(111, 32)
    assert encoded == [111] and len(kept) == 4
    assert losses(110, 32) == pytest.approx(kept, rel=1e-5) and len(encoded) == 16  # four groups a step
    losses(111, 16)
    assert len(encoded) == 16


def test_weights_of_another_model_are_refused(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    write_checkpoint(create_model("PE-Spatial-T16-512"), path)
    with pytest.raises(ConfigError, match="which is PE-Spatial-T16-512; the run trains PE-Core-N16-128"):
        pretrain(dataclasses.replace(debug(), initial=str(path)), [photos], tmp_path / "run")
    with pytest.raises(ConfigError, match="'visual' or 'text'"):
        dataclasses.replace(debug(), locked="both")


def test_a_run_is_told_by_what_is_not_by_default() -> None:
    config = builtin()
    same = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, betas=(0.9, 0.95)))
    assert same.fingerprint() == config.fingerprint()
    others = [
        dataclasses.replace(config, seed=1),
        dataclasses.replace(config, augmentation=None),
        dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, betas=(0.9, 0.99))),
        dataclasses.replace(config, stages=config.stages[:2]),
        dataclasses.replace(config, masking=MaskRegularization()),
        dataclasses.replace(config, masking=MaskRegularization(every=8)),
    ]
    assert len({each.fingerprint() for each in [config, *others]}) == len(others) + 1
    assert config.fingerprint(["a"]) != config.fingerprint(["b"])
