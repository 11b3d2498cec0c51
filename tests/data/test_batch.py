"""A batch, or a rank's part of one."""

from __future__ import annotations

import torch

from perception_encoder.data.batch import ImageTextBatch


def test_a_part_has_the_size_of_the_whole_batch_and_moves_whole() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    tokens, truth = torch.ones(3, 5, dtype=torch.int64), torch.ones(2, 7, dtype=torch.bool)
    of_captions = torch.ones(3, 9, dtype=torch.bool)
    batch = ImageTextBatch(images, tokens, truth, of_captions, slice(4, 6), slice(0, 3), ("a", "b", "c"), left_out=1)
    assert len(batch) == 9
    moved = batch.to(torch.device("meta"))
    tensors = (moved.images, moved.tokens, moved.image_positives, moved.text_positives)
    assert {each.device.type for each in tensors} == {"meta"} and moved.masked is None
    assert (moved.own_images, moved.texts, moved.left_out, len(moved)) == (slice(4, 6), ("a", "b", "c"), 1, 9)
