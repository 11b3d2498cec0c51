"""Features of a frozen tower on the disk."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from perception_encoder.language_alignment.batches import FeatureFile


def features(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 4, 6, generator=torch.Generator().manual_seed(seed)).half()


def test_features_come_back_in_a_later_run(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path / "runs" / "f", 4, 6)
    assert file.get("a") is None
    file.put("a", features(2, 1))
    file.put("b", features(0))
    file.put("c", features(3, 2))
    for each in (file, FeatureFile(tmp_path / "runs" / "f", 4, 6)):
        assert len(each) == 3
        for key, expected in (("a", features(2, 1)), ("b", features(0)), ("c", features(3, 2))):
            stored = each.get(key)
            assert stored is not None and torch.equal(stored, expected)


def test_a_killed_run_loses_its_last_conversation_at_most(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = FeatureFile(tmp_path / "f", 4, 6)
    for key in "abc":
        file.put(key, features(2, ord(key)))
    index, data = tmp_path / "f.jsonl", tmp_path / "f.f16"
    index.write_text(index.read_text()[:-4])  # the last line was not written whole
    with caplog.at_level(logging.WARNING):
        again = FeatureFile(tmp_path / "f", 4, 6)
    assert "f.jsonl:3 is damaged" in caplog.text
    assert again.get("c") is None
    again.put("c", features(2, 9))
    for key, seed in (("a", ord("a")), ("b", ord("b")), ("c", 9)):
        stored = FeatureFile(tmp_path / "f", 4, 6).get(key)
        assert stored is not None and torch.equal(stored, features(2, seed))
    data.write_bytes(data.read_bytes()[:-5])  # the index is ahead of the features
    assert FeatureFile(tmp_path / "f", 4, 6).get("c") is None
