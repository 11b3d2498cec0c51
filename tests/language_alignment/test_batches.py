"""Batches of conversations, and the cached features of a frozen tower."""

from __future__ import annotations

from pathlib import Path

import torch

from perception_encoder.language_alignment.batches import Example, FeatureFile, collate
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


def features(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 4, 6, generator=torch.Generator().manual_seed(seed)).half()


def test_features_come_back_in_a_later_run(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path / "runs" / "f", 4, 6)
    assert file.get("a") is None
    file.put("a", features(2, 1))
    file.put("b", features(0))
    file.put("c", features(3, 2))
    for item in (file, FeatureFile(tmp_path / "runs" / "f", 4, 6)):
        assert len(item) == 3
        for key, expected in (("a", features(2, 1)), ("b", features(0)), ("c", features(3, 2))):
            stored = item.get(key)
            assert stored is not None and torch.equal(stored, expected)


def test_a_killed_run_loses_its_last_conversation_at_most(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path / "f", 4, 6)
    for key in "abc":
        file.put(key, features(2, ord(key)))
    index, data = tmp_path / "f.jsonl", tmp_path / "f.f16"
    index.write_text(index.read_text()[:-4])  # the last line was not written whole
    again = FeatureFile(tmp_path / "f", 4, 6)
    assert again.get("c") is None
    again.put("c", features(2, 9))
    for key, seed in (("a", ord("a")), ("b", ord("b")), ("c", 9)):
        stored = FeatureFile(tmp_path / "f", 4, 6).get(key)
        assert stored is not None and torch.equal(stored, features(2, seed))
    data.write_bytes(data.read_bytes()[:-5])  # the index is ahead of the features
    assert FeatureFile(tmp_path / "f", 4, 6).get("c") is None
