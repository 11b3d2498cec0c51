"""Batches of conversations, and the cached features of a frozen tower."""

from __future__ import annotations

import torch

from perception_encoder.language_alignment.batches import Example, collate
from perception_encoder.language_alignment.text.prompt import IGNORED, Prompt

SHORT = Example(
    Prompt([5, 0, 0, 6], [IGNORED, IGNORED, IGNORED, 6], [False, True, True, False]), torch.zeros(1, 3, 8, 8)
)
LONG = Example(Prompt([7, 8, 9, 1, 2, 3], [7, IGNORED, IGNORED, 1, 2, 3], [False] * 6), torch.ones(2, 3, 8, 8))


def test_rows_are_padded_on_the_right_without_labels() -> None:
    batch = collate([SHORT, LONG], step=3)
    assert batch.ids.tolist() == [[5, 0, 0, 6, 0, 0], [7, 8, 9, 1, 2, 3]]
    assert batch.labels[0].tolist() == [IGNORED, IGNORED, IGNORED, 6, IGNORED, IGNORED]
    assert batch.is_image.tolist() == [[False, True, True, False, False, False], [False] * 6]
    assert batch.images.shape == (3, 3, 8, 8) and batch.parts is None
    assert (len(batch), batch.step) == (2, 3)
    assert len(collate([SHORT, LONG], step=3, rows=8)) == 8  # of all ranks


def test_answer_tokens_are_those_with_a_loss_over_all_ranks() -> None:
    assert collate([SHORT, LONG], 0).answer_tokens == 1 + 3  # a row's first token has none
    assert collate([SHORT], 0, lambda count: count + 10).answer_tokens == 11


def test_a_batch_moves_with_its_counts() -> None:
    moved = collate([SHORT], 4).to(torch.device("meta"))
    assert moved.ids.is_meta and (moved.step, moved.answer_tokens) == (4, 1)
