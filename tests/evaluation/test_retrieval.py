"""Recall at one, and what dual softmax does to it."""

from __future__ import annotations

import numpy as np
import torch

from perception_encoder.evaluation.retrieval import dual_softmax, found_first


def test_found_first() -> None:
    scores = np.array([(0.9, 0.1, 0.0), (0.8, 0.7, 0.1), (0.0, 0.2, 0.3)])
    assert found_first(scores).tolist() == [True, False, True]
    assert found_first(scores.T).tolist() == [True, True, True]


def test_dual_softmax_is_the_papers_formula() -> None:
    scores = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    expected = torch.from_numpy(scores) * torch.softmax(torch.from_numpy(scores), dim=0)
    np.testing.assert_allclose(dual_softmax(scores), expected.numpy(), rtol=1e-5)


def test_dual_softmax_holds_back_an_item_that_every_query_likes() -> None:
    scores = np.array([(9.0, 1.0, 1.0), (8.0, 7.5, 1.0), (8.0, 1.0, 7.5)])
    assert found_first(scores).tolist() == [True, False, False]
    assert found_first(dual_softmax(scores)).tolist() == [True, True, True]
