"""Load the detectors that the paper's authors published: Mask R-CNN with ViTDet, and DETA.

They are `mask_rcnn_PE{core,spatial}_G_{coco,lvis}…ep.pth` and `deta_coco_1824pix.pth` of the hub's repository
facebook/PE-Detection, under the Apache-2.0 license by its model card. Their layouts are known from the published code;
the files themselves were not available when this was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector
from perception_encoder.dense_prediction.published import deta_layout, vitdet_layout
from perception_encoder.dense_prediction.published.backbone import TABLES, describe_backbone
from perception_encoder.dense_prediction.published.deta_layout import coco_classes
from perception_encoder.dense_prediction.published.layout import load_rows
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoints.files import read_checkpoint
from perception_encoder.models.checkpoints.layouts import StateDict


def load_detector(path: Path, classes: Sequence[str | tuple[int, str]] = ()) -> tuple[DenseModel, HeadInfo]:
    """Load a published detector with its encoder, in eval mode; detect with it by `detect_objects`.

    `classes`: their names, or ids and names; by default COCO's, or their numbers. Raises CheckpointError, which lists
    what does not fit, or names the part that is not supported; ConfigError for another number of names.
    """
    return published_detector(path, read_checkpoint(path)[0], classes)


def published_detector(
    path: Path, state: StateDict, classes: Sequence[str | tuple[int, str]] = ()
) -> tuple[DenseModel, HeadInfo]:
    """Make the detector of a file's tensors: see `load_detector`."""
    try:
        if "transformer.level_embed" in state:
            return _deta(path, state, classes)
        if any(name.startswith(("roi_heads.", "proposal_generator.")) for name in state):
            return _vitdet(path, state, classes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    listed = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"{path} is neither a detector that `pe train` wrote, nor in the layout of PE-Detection's: it has {listed}, …"
    )


def _vitdet(path: Path, state: StateDict, classes: Sequence[str | tuple[int, str]]) -> tuple[DenseModel, HeadInfo]:
    vitdet_layout.check_vitdet(state)
    config, count, masks = vitdet_layout.vitdet_config(state)
    ids, names = _categories(path, classes, count)
    tower = describe_backbone(state, vitdet_layout.PREFIX, vitdet_layout.WINDOWS, vitdet_layout.IMAGE_SIZE)
    backbone = tower.build(vitdet_layout.INPUTS)
    model = DenseModel(backbone, Detector(tower.vision.width, count, masks, config))
    rows = [*tower.rows(backbone), *vitdet_layout.vitdet_rows(state, masks)]
    load_rows(model, state, rows, (TABLES, *vitdet_layout.UNUSED))
    info = HeadInfo(
        task="detection",
        encoder=path.name,
        weights="",
        layer=tower.vision.depth - 1,
        image_size=tower.image_size,
        head=asdict(config),
        classes=names,
        class_ids=ids,
        masks=masks,
        finetuned=True,
        windows=tower.windows,
    )
    return model.train(False).requires_grad_(False), info


def _deta(path: Path, state: StateDict, classes: Sequence[str | tuple[int, str]]) -> tuple[DenseModel, HeadInfo]:
    config, numbered = deta_layout.deta_config(state)
    ids, names = _categories(path, classes, len(numbered.numbers))
    prefix = deta_layout.find_prefix(state)
    tower = describe_backbone(state, prefix, deta_layout.WINDOWS, deta_layout.IMAGE_SIZE)
    backbone = tower.build(deta_layout.INPUTS)
    model = DenseModel(backbone, DetrHead(tower.vision.width, len(numbered.numbers), config))
    rows = [*tower.rows(backbone), *deta_layout.deta_rows(prefix, config.layers, numbered)]
    load_rows(model, state, rows, (TABLES, *deta_layout.UNUSED))
    info = HeadInfo(
        task="detr",
        encoder=path.name,
        weights="",
        layer=tower.vision.depth - 1,
        image_size=tower.image_size,
        head=asdict(config),
        classes=names,
        class_ids=ids,
        finetuned=True,
        windows=tower.windows,
    )
    return model.train(False).requires_grad_(False), info


def _categories(
    path: Path, classes: Sequence[str | tuple[int, str]], count: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The classes' ids and names."""
    if classes and len(classes) != count:
        raise ConfigError(f"{path} has {count} classes, and {len(classes)} names were given")
    usual = coco_classes()
    known = list(usual.items()) if count == len(usual) else [(number, str(number)) for number in range(1, count + 1)]
    pairs = (
        [(own, each) if isinstance(each, str) else each for (own, _), each in zip(known, classes, strict=True)]
        if classes
        else known
    )
    return tuple(number for number, _ in pairs), tuple(name for _, name in pairs)
