"""Recipes of heads, and plans of their training."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.dense_prediction.depth import DepthHead, DepthHeadConfig
from perception_encoder.dense_prediction.detection.detr import DetrHead, DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector, DetectorHeadConfig
from perception_encoder.dense_prediction.vitdet import WindowConfig, vitdet_backbone
from perception_encoder.dense_training.config import DenseConfig, DepthTrainingConfig, DetectorConfig
from perception_encoder.dense_training.recipes import VITDET, head_part, plan_dense
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import MODELS, find_model
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.stages import DENSE_TRAINING, ConfiguredRecipe
from perception_encoder.training.cost import Phase, TrainingPlan, find_device
from perception_encoder.training.distributed import ParallelConfig
from tests.recipes import find_recipe


@pytest.mark.parametrize("name", VITDET)
def test_vitdets_recipes_are_the_papers(name: str) -> None:
    config = find_recipe(f"detector_{name}")
    assert isinstance(config, DetectorConfig) and config.windows is not None and config.encoder in MODELS
    assert (config.image_size, config.scales, config.batch_size, config.warmup) == (1024, (0.1, 2.0), 64, 250)
    assert (config.windows.size, config.windows.patch_size, config.optimizer.weight_decay) == (32, 16, 0.1)
    large = name.endswith("g14")
    expected = (5e-5, 0.9, 0.5, 50) if large else (1e-4, 0.8, 0.4, 24)
    depth = MODELS[config.encoder].vision.depth
    assert (config.optimizer.lr, config.optimizer.layer_decay, config.drop_path, depth) == expected
    steps = {"core_g14": 138_281, "spatial_g14": 66_375}.get(name, 184_375)
    assert (config.steps, config.optimizer.decay_all, config.optimizer.max_grad_norm) == (steps, True, None)
    assert (config.windows.tile or MODELS[config.encoder].vision.grid) == 32
    assert config.windows.global_blocks[-1] == depth - 1 and len(config.windows.global_blocks) == 4
    assert [drop * 184_375 for drop in config.drops] == pytest.approx([163_889, 177_546])  # the released configs'
    frozen = find_recipe(f"detector_{name}_frozen")
    assert isinstance(frozen, DetectorConfig) and frozen.frozen and not frozen.drop_path
    assert round(frozen.steps * 64 / 118_287) == 15 and frozen.windows == config.windows


@pytest.mark.parametrize("family", ["core", "spatial"])
def test_lvis_is_learned_by_the_federated_loss(family: str) -> None:
    config = find_recipe(f"detector_{family}_g14_lvis")
    assert isinstance(config, DetectorConfig) and config.repeat_threshold == 1e-3
    assert (config.head.federated, config.head.least_score, config.head.most) == (50, 0.02, 300)
    assert config.steps == 138_281


def test_detas_stages_are_the_papers() -> None:
    stages = [find_recipe(f"detr_spatial_g14_{number}") for number in range(1, 5)]
    assert [stage.image_size for stage in stages] == [1024, 1536, 1728, 1824]
    assert [stage.batch_size for stage in stages] == [256, 128, 64, 64]
    assert [stage.optimizer.lr for stage in stages] == [2e-4, 5e-5, 5e-5, 5e-3]
    assert [stage.optimizer.name for stage in stages] == ["adamw", "adamw", "adamw", "sgd"]
    assert [
        round(stage.steps * stage.batch_size / images)
        for stage, images in zip(stages, (1_742_289,) * 2 + (118_287,) * 2, strict=True)
    ] == [12, 6, 12, 3]
    for number, stage in enumerate(stages, start=1):
        assert (stage.optimizer.max_grad_norm, stage.optimizer.decay_all) == (0.1, True)
        assert stage.optimizer.slow == ("sampling_offsets", "reference_points")
        assert isinstance(stage.head, DetrHeadConfig) and (stage.head.queries, stage.windows.tile) == (900, 24)
        assert (stage.warmup, stage.scales) == (0, None)  # the scripts have no warm-up, and DETR's augmentation
        assert stage.initial == (None if number == 1 else f"runs/detr_spatial_g14_{number - 1}/head.safetensors")


def test_bad_settings_of_a_detector() -> None:
    with pytest.raises(ConfigError, match=r"scales is \[2, 1\]"):
        DetectorConfig(scales=(2, 1))
    with pytest.raises(ConfigError, match=r"a DETR has no masks; set masks=false"):
        DetectorConfig(head=DetrHeadConfig())
    assert not DetectorConfig(head=DetrHeadConfig(), masks=False).masks


def planned(config: DenseConfig, devices: int = 1) -> TrainingPlan:
    return ConfiguredRecipe(DENSE_TRAINING, config).plan(find_device("h100"), devices)


def image_flops(phase: Phase) -> float:
    return phase.flops() / phase.batch_size


@pytest.mark.parametrize(("size", "checkpointing"), [(4, False), (4, True), (6, False)])
def test_a_backbone_in_windows_costs_what_torch_counts(size: int, checkpointing: bool) -> None:
    """Of its 16 x 16 patches, which windows of 6 do not fill, so that attention runs over 18 x 18."""
    windows = WindowConfig(size=size, global_blocks=(1, 3))
    config = DetectorConfig(encoder="builtin", windows=windows, image_size=256, frozen=False, layer=4)
    part = plan_dense(config)[0][0].parts[0]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        backbone = vitdet_backbone(VisionTransformer(find_model("builtin").vision).truncate(4), 256, windows)
        backbone.transformer.checkpointing = checkpointing
        backbone(torch.empty(1, 3, 256, 256)).sum().backward()
    planned = part.flops(ParallelConfig(checkpointing=checkpointing))
    assert counter.get_total_flops() == pytest.approx(planned, rel=1e-9)
    assert part.parameters == pytest.approx(sum(parameter.numel() for parameter in backbone.parameters()), rel=1e-3)


def saved_bytes(head: nn.Module, side: int, width: int) -> float:
    """What autograd saves of a head in training, with its losses, for a further image of six objects."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(6, 2, generator=generator) * side * 8
    boxes = torch.cat([corners, corners + 20 + torch.rand(6, 2, generator=generator) * side * 6], dim=1)
    labels, masks = torch.ones(6, dtype=torch.long), torch.ones(6, side * 16, side * 16, dtype=torch.uint8)

    def of(images: int) -> int:
        storages: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        features = torch.randn(images, side, side, width, generator=generator, requires_grad=True)
        targets = [{"boxes": boxes, "labels": labels, "masks": masks} for _ in range(images)]
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            head(*([features] if isinstance(head, DepthHead) else [features, targets]))
        return sum(storage.nbytes() for storage in storages.values())

    return of(2) - of(1)


@pytest.mark.parametrize("name", ["depth", "mask_rcnn", "vitdet", "detr"])
def test_a_head_holds_what_autograd_saves(name: str) -> None:
    """Within 30 %: an image's own proposals decide how much a detector saves."""
    width, side = 32, 12
    detector = DetectorHeadConfig(channels=32, hidden=64, regions=32, vitdet=name == "vitdet")
    match name:
        case "depth":
            config: DenseConfig = DepthTrainingConfig(head=DepthHeadConfig(channels=32))
            head: nn.Module = DepthHead(width, DepthHeadConfig(channels=32))
        case "detr":
            detr = DetrHeadConfig(channels=32, layers=2, hidden=64, queries=50)
            config, head = DetectorConfig(head=detr, masks=False), DetrHead(width, 80, detr)
        case _:
            config, head = DetectorConfig(head=detector), Detector(width, 80, True, detector)
    cost = head_part(config, width, side)
    assert cost.parameters == sum(parameter.numel() for parameter in head.parameters())
    assert cost.held() == pytest.approx(saved_bytes(head.train(), side, width), rel=0.3)


def small_plan(config: DetectorConfig, count: int = 1, **changes: object) -> TrainingPlan:
    """The plan of a recipe on a small encoder."""
    windows = WindowConfig(size=24, global_blocks=(11,))
    changed = {"encoder": "PE-Core-S16-384", "windows": windows, **changes}
    return planned(dataclasses.replace(config, **changed), count)  # type: ignore[arg-type]


def test_a_plan_of_deta() -> None:
    """The head's linear layers see every patch of the pyramid in the encoder, and every query in the decoder."""
    config = find_recipe("detr_spatial_g14_1")
    assert isinstance(config, DetectorConfig)

    def flops(**changes: object) -> float:
        """Of an image's forward pass, and so of a third of a step."""
        return image_flops(small_plan(config, head=dataclasses.replace(config.head, **changes)).phases[0]) / 3

    tokens = sum(max(1, -(-128 // 2**level)) ** 2 for level in range(5))
    sampling = 256 * (2 * 256 + 8 * 5 * 4 * 3)  # weights of values and output, of offsets and of their factors
    encoder, decoder = sampling + 2 * 256 * 2048, sampling + 4 * 256**2 + 2 * 256 * 2048
    queries, attention = 900, 2 * 900**2 * 256
    layer = 2 * (tokens * encoder + queries * decoder + tokens * 256**2 + attention)
    whole, more = flops(), flops(queries=1800)
    assert whole - flops(layers=5) == pytest.approx(layer, rel=0.02)
    assert more - whole == pytest.approx(2 * 6 * (queries * decoder + 3 * attention), rel=0.1)


def test_heads_are_planned_by_their_task() -> None:
    """Of a mask head a quarter of the regions is counted; of a frozen encoder no gradient."""
    config = find_recipe("detector")
    assert isinstance(config, DetectorConfig)
    phases = {masks: planned(dataclasses.replace(config, masks=masks)).phases[0] for masks in (True, False)}
    layer = 2 * 128 * 128 * 9 * 14 * 14 * (128 // 4)
    assert image_flops(phases[True]) - image_flops(phases[False]) == pytest.approx(3 * 4 * layer)
    assert planned(dataclasses.replace(config, class_agnostic=True)).phases[0].flops() == phases[False].flops()
    finetuned = small_plan(config, frozen=False)
    frozen = small_plan(config)
    (total, trained), memory = frozen.parameters, frozen.memory()
    assert finetuned.parameters == (total, total) and trained < total - 20e6
    assert (memory["weights"], memory["optimizer"]) == (6 * total, 8 * trained)
    assert memory["activations"] < finetuned.memory()["activations"]
    with pytest.raises(ConfigError, match="only models of this package"):
        plan_dense(dataclasses.replace(config, encoder="timm:vit_base_patch16_224"))
