"""The paper's runs: models of the right size, samples, resolutions and rates."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from perception_encoder.data.pairs import Stage
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.augmentation import Augmentation, Mixing
from perception_encoder.pretraining import STAGE
from perception_encoder.pretraining.config import LoRA, MaskRegularization, PretrainingConfig, tower_configs
from perception_encoder.pretraining.recipes import distill_builtin, video_finetune
from perception_encoder.pretraining.run import pretrain
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig
from tests.pretraining.toys import debug
from tests.recipes import find_recipe

PAPER = [name for name in STAGE.recipes if not re.search("builtin|distill|finetune$|n16", name)]
RUNS = [name for name in STAGE.recipes if re.match("(core|distill|video_finetune)_[tsblg]1[46]", name)]
BILLION = 1_000_000_000


def config_of(name: str) -> PretrainingConfig:
    config = find_recipe(name)
    assert isinstance(config, PretrainingConfig)
    return config


def sizes(config: PretrainingConfig) -> list[int]:
    return [stage.image_size for stage in config.stages]


@pytest.mark.parametrize("name", PAPER)
def test_every_model_is_built_on_the_meta_device(name: str) -> None:
    config = config_of(name)
    vision, text = tower_configs(config)
    with torch.device("meta"):
        model = CLIP(vision, text)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == vision.parameters + text.parameters + 1
    assert all(size % vision.patch_size == 0 for size in sizes(config))
    if config.rope and config.attention_pool and config.patch_size is None:
        entry = find_model(config.model)
        assert (vision, text) == (entry.vision, entry.text)


@pytest.mark.parametrize("name", RUNS)
def test_the_papers_runs_have_all_settings_of_its_table(name: str) -> None:
    """Appendix B.1.1, those included that a recipe takes from the defaults; its weights serve the next run."""
    config, kind = config_of(name), re.sub("_?[tsblg]1[46]_?", "", name)
    rate = {"core": 2e-3, "corecooldown": 2e-4, "distill": 1e-6, "video_finetune": 1e-6}[kind]
    lamb = OptimizerConfig(
        name="lamb", lr=rate, plain_lr=None, betas=(0.9, 0.95), weight_decay=0.05, decay_tables=True, decay_all=False
    )
    assert (config.optimizer, config.drops, config.warmup) == (lamb, (), 0 if kind == "corecooldown" else 2_000)
    assert config.rope and config.attention_pool and not config.half and config.balance == 0.5
    assert config.masking == (MaskRegularization(every=16, ratio=0.4) if kind.startswith("core") else None)
    crops = {"scale": (0.08, 1.0), "aspect": (0.75, 1.33), "brightness": 0.32, "saturation": 0.32, "flip": 0.5}
    assert config.augmentation == (None if kind == "distill" else Augmentation(**crops))
    assert config.frames == (8 if kind == "video_finetune" else None)
    assert (config.mixing, config.locked, config.lora, config.contrastive_weight) == (None, None, None, 0)
    assert config.teacher == ("PE-Core-G14-448" if kind == "distill" else None) and config.teacher_logit_scale == 200


def test_every_run_starts_from_the_one_before_it_in_float32() -> None:
    """Pretraining, cooldown, distillation of all but the teacher, video finetuning; other weights are small."""
    for name in RUNS:
        size = re.search("[tsblg]1[46]", name)[0]
        before = {"core": None, "distill": f"core_{size}_cooldown", "video": f"distill_{size}"}[name.split("_")[0]]
        if name.endswith("cooldown"):
            before = f"core_{size}"
        elif name == "video_finetune_g14":
            before = "core_g14_cooldown"
        assert config_of(name).initial == (None if before is None else f"runs/{before}/model.safetensors"), name
        assert before is None or not config_of(before).half
    for name in ("core_n16", "finetune", "distill_builtin"):  # for use
        assert config_of(name).half and not config_of(name).optimizer.decay_tables


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("core_b16", 448),
        ("core_l14", 671),
        ("core_g14", 2419),
    ],
)
def test_parameters(name: str, millions: int) -> None:
    vision, text = tower_configs(config_of(name))
    assert round((vision.parameters + text.parameters) / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "samples", "steps", "batch", "resolutions"),
    [
        ("core_b16", 58 * BILLION, 443_000, 131_072, [112, 160, 224]),
        ("core_l14", 58 * BILLION, 443_000, 131_072, [98, 154, 224, 336]),
        ("core_g14", 86 * BILLION, 656_000, 131_072, [98, 154, 224, 336, 448]),
        ("core_g14_cooldown", 50_000_000, 381, 131_072, [448]),
        ("video_finetune_g14", 22_000_000, 5_400, 4_096, [448]),
        ("distill_l14", 4_400_000_000, 269_000, 16_384, [336]),
        ("distill_t16", 4_400_000_000, 269_000, 16_384, [384]),
    ],
)
def test_samples_and_resolutions(name: str, samples: int, steps: int, batch: int, resolutions: list[int]) -> None:
    config = config_of(name)
    assert sum(stage.steps for stage in config.stages) == config.steps == steps
    assert config.steps * config.batch_size == pytest.approx(samples, rel=0.02)
    assert (config.batch_size, sizes(config)) == (batch, resolutions)


def test_a_tower_of_another_pooling_is_trained(photos: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        debug(),
        stages=(Stage(image_size=32, steps=1),),
        batch_size=4,
        attention_pool=False,
        masking=None,
        weights={"flowers": 1},
    )
    model = load_model(pretrain(config, [photos], tmp_path / "run"))
    assert isinstance(model, CLIP) and not model.visual.config.attention_pool


VIDEOS, TAUGHT = video_finetune("b16"), distill_builtin()


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (VIDEOS, {"masking": MaskRegularization()}, "frames and masking: videos have no masked copies"),
        (VIDEOS, {"mixing": Mixing()}, "frames and mixing: images are mixed, not videos"),
        (TAUGHT, {"masking": MaskRegularization()}, "set masking and frames to null"),
        (TAUGHT, {"frames": 8}, "set masking and frames to null"),
        (debug(), {"lora": LoRA()}, "lora adapts the weights of `initial`"),
        (TAUGHT, {"lora": LoRA(), "parallel": ParallelConfig(kind="fsdp")}, "lora adapts the weights of `initial`"),
        (TAUGHT, {"locked": "both"}, "'visual' or 'text'"),
        (debug(), {"initial_share": 0.5}, "has nothing to average with; set initial"),
        (debug(), {"stages": ()}, "stages is empty"),
        (debug(), {"model": None}, "model and initial are null"),
    ],
)
def test_settings_that_do_not_go_together(config: PretrainingConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **changes)
