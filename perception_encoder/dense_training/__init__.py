"""Depth, classes of pixels and objects, trained on an encoder's layer, frozen or finetuned (section 5)."""

from __future__ import annotations

from perception_encoder.training.stage import Stage

ROWS = {
    "depth": ("a depth head on your images with depth", "depth_estimator"),
    "segmenter": ("a segmentation head on your images with masks of classes", "segmenter"),
    "detector": ("a detector on your images with boxes, in COCO's format", "detector"),
    "detr": ("a deformable DETR on your images with boxes, in COCO's format", "deformable_detr"),
    "detector_core_g14": ("Mask R-CNN, PE-Core-G finetuned: COCO, 75 epochs", "vitdet", "core_g14"),
    "detector_spatial_g14": ("Mask R-CNN, PE-Spatial-G finetuned: COCO, 36 epochs", "vitdet", "spatial_g14"),
    "detector_core_l14": ("Mask R-CNN, PE-Core-L finetuned: COCO, 100 epochs", "vitdet", "core_l14"),
    "detector_spatial_l14": ("Mask R-CNN, PE-Spatial-L finetuned: COCO, 100 epochs", "vitdet", "spatial_l14"),
    "detector_core_g14_lvis": ("Mask R-CNN, PE-Core-G finetuned: LVIS, 75 epochs", "vitdet_lvis", "core_g14"),
    "detector_spatial_g14_lvis": ("Mask R-CNN, PE-Spatial-G finetuned: LVIS, 75 epochs", "vitdet_lvis", "spatial_g14"),
    "detr_spatial_g14_1": ("DETA's detector on PE-Spatial-G, 1: Objects365 at 1024 px", "deta", 1),
    "detr_spatial_g14_2": ("DETA's detector on PE-Spatial-G, 2: Objects365 at 1536 px", "deta", 2),
    "detr_spatial_g14_3": ("DETA's detector on PE-Spatial-G, 3: COCO at 1728 px", "deta", 3),
    "detr_spatial_g14_4": ("DETA's detector on PE-Spatial-G, 4: COCO at 1824 px", "deta", 4),
    "detector_core_g14_frozen": ("Mask R-CNN, PE-Core-G frozen: COCO, 15 epochs", "frozen_vitdet", "core_g14"),
    "detector_spatial_g14_frozen": ("Mask R-CNN, PE-Spatial-G frozen: COCO, 15 epochs", "frozen_vitdet", "spatial_g14"),
    "detector_core_l14_frozen": ("Mask R-CNN, PE-Core-L frozen: COCO, 15 epochs", "frozen_vitdet", "core_l14"),
    "detector_spatial_l14_frozen": ("Mask R-CNN, PE-Spatial-L frozen: COCO, 15 epochs", "frozen_vitdet", "spatial_l14"),
}
STAGE = Stage.deferred(
    "dense", __name__, ROWS, run="run.train_dense", plan="recipes.plan_dense", debug="recipes.debug_dense"
)
