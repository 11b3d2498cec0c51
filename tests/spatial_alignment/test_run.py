"""Whole runs of spatial alignment on a few scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from perception_encoder.errors import CheckpointError, DataError
from perception_encoder.inference.load import load_layers
from perception_encoder.models.checkpoints.files import read_checkpoint
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.registry import BUILTIN, find_model
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.spatial_alignment.recipes import distill_spatial
from perception_encoder.spatial_alignment.run import align_spatially, spatial_name
from perception_encoder.training.checkpoint import BEST
from perception_encoder.training.config import ValidationConfig
from perception_encoder.training.optimizer import OptimizerConfig
from tests.evaluation.layers import png
from tests.spatial_alignment.conftest import scene
from tests.spatial_alignment.toys import CONFIG
from tests.training.toys import Interrupted, interrupt_at, losses, rows, train_by_ranks, validations


def test_both_losses_fall_and_the_result_is_a_spatial_tower(scenes: Path, tmp_path: Path) -> None:
    plain = replace(CONFIG, steps=30, masking=None, drop_path=0.0, augmentation=None, checkpoint_every=30)
    path = align_spatially(replace(plain, optimizer=OptimizerConfig(lr=5e-3)), [scenes], tmp_path)
    masks = [value for (value,) in losses(tmp_path, "masks")]
    assert sum(masks[-5:]) < 0.8 * sum(masks[:5])
    model = load_model(path)
    assert isinstance(model, VisionTransformer) and "Spatial" in model.name
    assert model.config.layer_scale == 0.1 and model.attn_pool is None and model.config.depth == 12
    assert load_layers(path).depth == 12
    assert not any(name.startswith("to_teacher") for name in read_checkpoint(path)[0])


def test_a_run_is_not_resumed_with_other_images_of_the_same_names(tmp_path: Path) -> None:
    config, out = replace(CONFIG, masks=None, steps=2, checkpoint_every=1), tmp_path / "run"
    for directory, number in (("one", 1), ("two", 2)):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "a.png").write_bytes(png(scene(number)[0]))
    with pytest.raises(Interrupted):
        align_spatially(config, [tmp_path / "one"], out, listener=interrupt_at(2))
    with pytest.raises(CheckpointError, match="other data"):
        align_spatially(config, [tmp_path / "two"], out)


def test_quality_is_reported_while_it_trains(scenes: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, validation=ValidationConfig(every=2, share=0.3, size=6))
    align_spatially(config, [scenes], tmp_path)
    scores = validations(tmp_path)
    assert [row["step"] for row in scores] == [2, 4]
    for row in scores:
        assert row["validation/loss"] == pytest.approx(row["validation/core"] + row["validation/masks"], abs=1e-5)
        assert 0 <= row["validation/boundary"] <= 1
    assert (tmp_path / BEST).is_file()


def test_a_run_without_held_out_images_is_not_validated(scenes: Path, tmp_path: Path) -> None:
    """Its loss was 0 each time, so that the weights of the first validation were the best ones."""
    config = replace(CONFIG, validation=ValidationConfig(every=2, share=0.0))
    align_spatially(config, [scenes], tmp_path)
    assert not validations(tmp_path) and not (tmp_path / BEST).exists()


def test_images_of_all_sources_are_validated_on(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(40):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "photos" / f"{number}.png")
    config = replace(CONFIG, steps=1, validation=ValidationConfig(every=1, share=0.3, size=6))
    align_spatially(config, [tmp_path / "photos", scenes], tmp_path / "run")
    (row,) = validations(tmp_path / "run")
    assert row["validation/masks"] > 0


def test_data_without_masks_are_refused_if_masks_are_asked_for(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photos" / "a.png")
    with pytest.raises(DataError, match="masks is 'scenes'"):
        align_spatially(CONFIG, [tmp_path / "photos"], tmp_path / "run")
    align_spatially(replace(CONFIG, steps=1), [tmp_path / "photos", scenes], tmp_path / "both")


def test_a_smaller_model_learns_from_a_spatial_one(scenes: Path, tmp_path: Path) -> None:
    teacher = align_spatially(replace(CONFIG, steps=1), [scenes], tmp_path / "teacher")
    config = replace(distill_spatial("t16"), model=BUILTIN, teacher=str(teacher), image_size=64, steps=2, batch_size=4)
    path = align_spatially(replace(config, parallel=CONFIG.parallel, validation=None), [scenes], tmp_path / "student")
    assert rows(tmp_path / "student")[0].keys() >= {"core", "pairs"}
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


def test_ranks_train_as_one(scenes: Path, tmp_path: Path) -> None:
    settings = ("masks=scenes", "copies=0", "validation=null", "drop_path=0.3")

    def train(ranks: int, kind: str) -> Path:
        recipe, out = ("spatial_builtin", "--debug", "--data", scenes), tmp_path / f"{kind}{ranks}"
        train_by_ranks(out, ranks, *recipe, settings=[*settings, f"parallel.kind={kind}"])
        text = out.with_name(f"{out.name}.log").read_text()
        counts = {word: text.count(word) for word in ("step 1 ", "step 4 ", "weights:", "try it:")}
        assert counts == dict.fromkeys(counts, 1), "of torchrun's processes the first one prints"
        return out

    one = train(1, "ddp")
    expected, names = losses(one, "core", "masks"), read_checkpoint(one / "model.safetensors")[0].keys()
    assert len(expected) == 4
    for kind in ("ddp", "fsdp"):
        several = train(2, kind)
        assert losses(several, "core", "masks") == [pytest.approx(row, rel=1e-4) for row in expected]
        assert read_checkpoint(several / "model.safetensors")[0].keys() == names
