"""COCO's ids have gaps."""

from __future__ import annotations

from perception_encoder.dense_prediction.published.deta_layout import coco_classes


def test_ids_and_names() -> None:
    classes = coco_classes()
    assert len(classes) == 80 and list(classes) == sorted(classes) and not {0, 12, 26, 66, 83} & set(classes)
    assert (classes[1], classes[13], classes[90]) == ("person", "stop sign", "toothbrush")
