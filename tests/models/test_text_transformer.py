"""The feature of a text is that of its end-of-text token."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.errors import ShapeError
from tests.models.small import small_clip


def token_ids(*ends: int, length: int = 8) -> torch.Tensor:
    """Random ids with the highest, the end-of-text token, at the given places, and zeros after it."""
    ids = torch.randint(1, 48, (len(ends), length), generator=torch.Generator().manual_seed(2))
    for row, end in zip(ids, ends, strict=True):
        row[end], row[end + 1 :] = 49, 0
    return ids


@torch.no_grad()
def test_text_ends_at_its_end_of_text_token() -> None:
    model, ids = small_clip(), token_ids(2, 5, 7)
    changed = ids.clone()
    changed[0, 3:] = 7  # after the end: never seen
    torch.testing.assert_close(model.encode_text(changed), model.encode_text(ids))
    changed[0, 1] = ids[0, 1] % 47 + 1  # before it
    assert not torch.allclose(model.encode_text(changed)[0], model.encode_text(ids)[0])


@torch.no_grad()
def test_text_cut_to_the_longest_gives_the_same() -> None:
    model, ids = small_clip(), token_ids(2, 4)
    torch.testing.assert_close(model.encode_text(ids[:, :5]), model.encode_text(ids))


def test_text_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="9 tokens, but the text tower reads at most 8"):
        small_clip().encode_text(token_ids(8, length=9))
    with pytest.raises(ShapeError, match="must be \\(batch, length\\)"):
        small_clip().encode_text(token_ids(3)[0])
