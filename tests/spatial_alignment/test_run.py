"""Whole runs of spatial alignment on a few scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perception_encoder.errors import CheckpointError, DataError
from perception_encoder.inference.load import load_layers
from perception_encoder.models.checkpoints.files import read_checkpoint
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.registry import BUILTIN, find_model
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.recipes import distill_spatial
from perception_encoder.spatial_alignment.run import align_spatially, spatial_name
from perception_encoder.training.checkpoint import BEST
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.task import ValidationConfig
from tests import processes
from tests.processes import pe
from tests.spatial_alignment.conftest import encoded, scene
from tests.training.toys import Interrupted, interrupt_at

CONFIG = SpatialConfig(
    masks="scenes",
    image_size=64,
    steps=4,
    batch_size=4,
    warmup=0,
    log_every=1,
    checkpoint_every=2,
    teacher_layer=8,
    validation=None,
    half=False,
)


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_both_losses_fall_and_the_result_is_a_spatial_tower(scenes: Path, tmp_path: Path) -> None:
    plain = replace(CONFIG, steps=30, masking=None, drop_path=0.0, augmentation=None, checkpoint_every=30)
    path = align_spatially(replace(plain, optimizer=OptimizerConfig(lr=5e-3)), [scenes], tmp_path)
    rows = rows_of(tmp_path)
    assert sum(row["masks"] for row in rows[-5:]) < 0.8 * sum(row["masks"] for row in rows[:5])
    model = load_model(path)
    assert isinstance(model, VisionTransformer) and "Spatial" in model.name
    assert model.config.layer_scale == 0.1 and model.attn_pool is None and model.config.depth == 12
    assert load_layers(path).depth == 12
    assert not any(name.startswith("to_teacher") for name in read_checkpoint(path)[0])


def test_a_resumed_run_equals_an_uninterrupted_one(scenes: Path, tmp_path: Path) -> None:
    whole = align_spatially(CONFIG, [scenes], tmp_path / "whole")
    with pytest.raises(Interrupted):
        align_spatially(CONFIG, [scenes], tmp_path / "cut", listener=interrupt_at(3))
    resumed = align_spatially(CONFIG, [scenes], tmp_path / "cut")
    states = [read_checkpoint(path)[0] for path in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(CheckpointError, match="other settings"):
        align_spatially(replace(CONFIG, seed=1), [scenes], tmp_path / "cut")


def test_a_run_is_not_resumed_with_other_images_of_the_same_names(tmp_path: Path) -> None:
    config, out = replace(CONFIG, masks=None, steps=2, checkpoint_every=1), tmp_path / "run"
    for directory, number in (("one", 1), ("two", 2)):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "a.png").write_bytes(encoded(scene(number)[0], "PNG"))
    with pytest.raises(Interrupted):
        align_spatially(config, [tmp_path / "one"], out, listener=interrupt_at(2))
    with pytest.raises(CheckpointError, match="other data"):
        align_spatially(config, [tmp_path / "two"], out)


def test_quality_is_reported_while_it_trains(scenes: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, validation=ValidationConfig(every=2, share=0.3, size=6))
    align_spatially(config, [scenes], tmp_path)
    scores = [row for row in rows_of(tmp_path) if "validation/loss" in row]
    assert [row["step"] for row in scores] == [2, 4]
    for row in scores:
        assert row["validation/loss"] == pytest.approx(row["validation/core"] + row["validation/masks"], abs=1e-5)
        assert 0 <= row["validation/boundary"] <= 1
    assert (tmp_path / BEST).is_file()


def test_a_run_without_held_out_images_is_not_validated(scenes: Path, tmp_path: Path) -> None:
    """Its loss was 0 each time, so that the weights of the first validation were the best ones."""
    config = replace(CONFIG, validation=ValidationConfig(every=2, share=0.0))
    align_spatially(config, [scenes], tmp_path)
    assert not any("validation/loss" in row for row in rows_of(tmp_path)) and not (tmp_path / BEST).exists()


def test_images_of_all_sources_are_validated_on(scenes: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for number in range(40):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "photos" / f"{number}.png")
    config = replace(CONFIG, steps=1, validation=ValidationConfig(every=1, share=0.3, size=6))
    align_spatially(config, [tmp_path / "photos", scenes], tmp_path / "run")
    (row,) = (row for row in rows_of(tmp_path / "run") if "validation/loss" in row)
    assert row["validation/masks"] > 0


def test_data_without_masks_are_refused_if_masks_are_asked_for(scenes: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photos" / "a.png")
    with pytest.raises(DataError, match="masks is 'scenes', but no image has a mask"):
        align_spatially(CONFIG, [tmp_path / "photos"], tmp_path / "run")
    align_spatially(replace(CONFIG, steps=1), [tmp_path / "photos", scenes], tmp_path / "both")


def test_a_smaller_model_learns_from_a_spatial_one(scenes: Path, tmp_path: Path) -> None:
    teacher = align_spatially(replace(CONFIG, steps=1), [scenes], tmp_path / "teacher")
    config = replace(distill_spatial("t16"), model=BUILTIN, teacher=str(teacher), image_size=64, steps=2, batch_size=4)
    path = align_spatially(replace(config, parallel=CONFIG.parallel, validation=None), [scenes], tmp_path / "student")
    assert rows_of(tmp_path / "student")[0].keys() >= {"core", "pairs"}
    assert load_model(path).config.layer_scale is None


@pytest.mark.parametrize("name", ["PE-Spatial-N16-224", "PE-Spatial-T16-512"])
def test_published_architectures_keep_their_names(name: str) -> None:
    with torch.device("meta"):
        assert spatial_name(VisionTransformer(find_model(name).vision)) == name


@pytest.mark.parametrize(("width", "name"), [(200, "T16"), (512, "S16"), (1400, "G14")])
def test_another_architecture_takes_the_name_of_the_nearest_width(width: int, name: str) -> None:
    config = replace(find_model("PE-Spatial-T16-512").vision, width=width, heads=1, depth=1)
    with torch.device("meta"):
        assert spatial_name(VisionTransformer(config)).split("-")[2] == name


def test_timm_loads_a_published_layout(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from perception_encoder.models.checkpoints.weights import write_checkpoint
    from perception_encoder.models.initialization import initialize

    model = VisionTransformer(find_model("PE-Spatial-T16-512").vision, "PE-Spatial-T16-512")
    initialize(model, torch.Generator().manual_seed(0))
    model.eval()
    write_checkpoint(model, tmp_path / "timm.safetensors", layout="timm")
    other = timm.create_model(
        "vit_pe_spatial_tiny_patch16_512", checkpoint_path=str(tmp_path / "timm.safetensors")
    ).eval()
    pixels = torch.rand(1, 3, 512, 512)
    with torch.no_grad():
        torch.testing.assert_close(other.forward_features(pixels), model.forward_features(pixels), atol=1e-4, rtol=1e-4)


def train_by_ranks(data: Path, out: Path, ranks: int, kind: str) -> list[list[float]]:
    """The losses of a run's steps."""
    told = ["masks=scenes", "copies=0", f"parallel.kind={kind}", "validation=null", "drop_path=0.3"]
    words = ["train", "spatial_builtin", "--debug", "--data", str(data), "--out", str(out)]
    words += [word for setting in told for word in ("--set", setting)]
    log = out.with_name(f"{out.name}.log")
    in_float32 = {"PE_DTYPE": "float32"}
    started = processes.start(pe, *words, log=log, ranks=None if ranks == 1 else ranks, environment=in_float32)
    assert not any(started.statuses()), started.output()
    text = log.read_text()
    counts = {word: text.count(word) for word in ("step 1 ", "step 4 ", "weights:", "try it:")}
    assert counts == dict.fromkeys(counts, 1), "of torchrun's processes the first one prints"
    return [[row["core"], row["masks"]] for row in rows_of(out) if "core" in row]


def test_ranks_train_as_one(scenes: Path, tmp_path: Path) -> None:
    one = train_by_ranks(scenes, tmp_path / "one", 1, "ddp")
    assert len(one) == 4
    for kind in ("ddp", "fsdp"):
        several = train_by_ranks(scenes, tmp_path / kind, 2, kind)
        for item, other in zip(one, several, strict=True):
            assert other == pytest.approx(item, rel=1e-4)
        states = [read_checkpoint(tmp_path / run / "model.safetensors")[0] for run in ("one", kind)]
        assert states[0].keys() == states[1].keys()
