"""The paper's runs: models, samples, resolutions and rates; what they cost, against torch's own counts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.data.pairs import ImageTextBatch, ResolutionStage
from perception_encoder.errors import ConfigError
from perception_encoder.losses.pretraining import contrastive_loss
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.augmentation import Augmentation, Mixing
from perception_encoder.pretraining.config import LoRA, MaskRegularization, PretrainingConfig, trained_towers
from perception_encoder.pretraining.recipes import (
    contrastive_flops,
    core,
    distill_builtin,
    pair_parts,
    plan_pretraining,
    video_finetune,
)
from perception_encoder.pretraining.run import build_model, pretrain
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import TrainingTowers, add_adapters
from perception_encoder.stages import PRETRAINING, ConfiguredRecipe
from perception_encoder.training.cost import Device, Phase, find_device, tower_part
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig
from tests.pretraining.toys import debug
from tests.recipes import find_recipe

PAPER = [name for name in PRETRAINING.recipes if not re.search("builtin|distill|finetune$|n16", name)]
RUNS = [name for name in PRETRAINING.recipes if re.match("(core|distill|video_finetune)_[tsblg]1[46]", name)]
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
    _, vision, text = trained_towers(config)
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
    _, vision, text = trained_towers(config_of(name))
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
        stages=(ResolutionStage(image_size=32, steps=1),),
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


CONFIG = PretrainingConfig(
    model="builtin",
    stages=(ResolutionStage(image_size=32, steps=10), ResolutionStage(image_size=64, steps=5)),
    batch_size=16,
)
_, VISION, TEXT = trained_towers(CONFIG)
DEVICE = Device(1e12, 1e9)


def whole_model() -> CLIP:
    """The model of the run at its own resolution, which plans are for; the run draws positions at its first one."""
    model = build_model(CONFIG)
    model.visual.set_image_size(VISION.image_size)
    return model


def phases(**changes: object) -> list[Phase]:
    return plan_pretraining(dataclasses.replace(CONFIG, **changes))[0]


def memory(devices: int, **changes: object) -> dict[str, float]:
    config = dataclasses.replace(CONFIG, **changes)
    return plan_pretraining(config, devices)[0][0].memory(config, devices)


def test_a_batch_costs_what_torch_counts() -> None:
    config = dataclasses.replace(CONFIG, masking=MaskRegularization(every=4))
    task = ContrastiveTask(TrainingTowers(build_model(config), masked=True))
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    rows, masks = MaskRegularization(every=4).draw(8, 4, torch.Generator())
    tokens = torch.full((6, 5), 3)
    tokens[:, -1] = 9  # all of one length, so that all groups are
    positives = torch.ones(8, 6, dtype=torch.bool)
    batch = ImageTextBatch(images, tokens, positives, positives.T, masked=rows, masks=masks, masked_share=1.0)
    with FlopCounterMode(display=False) as counter:
        sum(task.losses(batch).values()).backward()
    probe = 3 * 2 * VISION.width**2  # once a call
    unseen = VISION.depth * 4 * 5**2 * VISION.width * len(rows)  # fused attention of the pass without gradients
    loss = 12 * 8 * 6 * 256
    seen, read, copies = pair_parts(config, VISION, TEXT, 32, 5)
    total = 8 * seen.flops() + 6 * read.flops() + 8 * copies.count * copies.flops()
    assert counter.get_total_flops() - probe + unseen - loss == total


def test_stages_and_hours_are_those_of_the_formulas() -> None:
    plan = ConfiguredRecipe(PRETRAINING, CONFIG).plan(DEVICE, 4, 0.5)
    first, second = plan.phases
    assert (first.steps, first.batch_size, second.steps, second.batch_size) == (10, 16, 5, 16)
    pair = tower_part(VISION, 64).flops() + tower_part(TEXT).flops() + 12 * 16 * 256
    assert second.flops() == second.flops(CONFIG.parallel) == 16 * pair
    assert plan.flops == 10 * first.flops() + 80 * pair
    assert plan.hours() == pytest.approx(plan.flops / 1e12 / 0.5 / 4 / 3600)
    parameters = sum(p.numel() for p in whole_model().parameters()) - 1  # the scale of the logits
    assert plan.parameters == (parameters, parameters)


def test_videos_masked_copies_and_a_locked_tower() -> None:
    def flops(**changes: object) -> float:
        return phases(**changes)[0].flops() / 16

    image, text, plain = tower_part(VISION, 32), tower_part(TEXT), flops()
    assert flops(frames=8) == plain + 7 * image.flops()
    assert flops(masking=MaskRegularization(every=4)) == plain + image.masked().flops() / 4
    assert flops(locked="visual") == plain - (image.flops() - image.forward)
    assert flops(locked="text") == plain - (text.flops() - text.forward)


def test_core_g_fits_512_h100s() -> None:
    plan = ConfiguredRecipe(PRETRAINING, core("g14")).plan(find_device("h100"), 512)
    assert sum(plan.memory().values()) < 0.9 * 80e9
    assert sum(phase.steps * phase.batch_size for phase in plan.phases) == 656_000 * 131_072
    alone = dataclasses.replace(core("g14"), parallel=ParallelConfig())
    assert sum(ConfiguredRecipe(PRETRAINING, alone).plan(find_device("h100"), 512).memory().values()) > 80e9


def test_the_loss_keeps_two_matrices_each_way() -> None:
    """Of the seven that the plan counts; the others are in passing."""
    shared = memory(4, parallel=ParallelConfig(kind="fsdp"))
    assert shared["images"] == 3 * 3 * 4 * 32**2  # of three batches
    assert shared["losses"] == 5 * 4 * 16 * 256 + 7 * 4 * 4 * 16 + 3 * 2 * 4 * 16  # features, logits, positives
    images, texts = (torch.randn(12, 16, requires_grad=True) for _ in range(2))
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contrastive_loss(images, texts, torch.tensor(10.0), *[torch.eye(12, dtype=torch.bool)] * 2)
    assert sum(tensor.untyped_storage().nbytes() == 4 * 12 * 12 for tensor in kept.values()) == 4
    features, positives = 2 * 4 * 16 * 256, 3 * 2 * 16 * 16
    assert memory(1)["losses"] == 7 * 4 * 16 * 16 + features + positives


def test_adapters_are_planned() -> None:
    """Gradients and moments of adapters alone; operations as `test_lora` counts them."""
    lora = LoRA(rank=4)
    config = dataclasses.replace(CONFIG, initial="builtin", lora=lora, parallel=ParallelConfig(chunk=4))
    model = build_model(config)
    frozen = sum(p.numel() for p in model.parameters()) - 1
    add_adapters(model, lora, None, 0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) - 1
    plan = ConfiguredRecipe(PRETRAINING, config).plan(DEVICE, 4)
    phase, sizes = plan.phases[0], plan.phases[0].memory(config, 4)
    assert (sizes["weights"], sizes["gradients"]) == (6 * (frozen + trained), 2 * 4 * trained)  # and DDP's buckets
    assert plan.parameters == (frozen + trained, trained)
    adapted = [tower_part(VISION, 32, (4, "all")), tower_part(TEXT, train=(4, "all"))]
    for parallel in (ParallelConfig(), config.parallel):
        flops = contrastive_flops(16, VISION) + sum(part.flops(parallel) for part in adapted)
        assert phase.flops(parallel) == 16 * flops
