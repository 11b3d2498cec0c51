"""Two towers: videos, text, unit length, and what training starts from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from perception_encoder.errors import ShapeError
from tests.models.small import random_images, small_clip


def token_ids(*ends: int, length: int = 8) -> torch.Tensor:
    """Random ids with the highest, the end-of-text token, at the given places, and zeros after it."""
    ids = torch.randint(1, 48, (len(ends), length), generator=torch.Generator().manual_seed(2))
    for row, end in zip(ids, ends, strict=True):
        row[end], row[end + 1 :] = 49, 0
    return ids


@torch.no_grad()
def test_everything_is_of_unit_length_under_normalize() -> None:
    model = small_clip()
    for vectors in (
        model.encode_image(random_images(3, 3, 32, 32), normalize=True),
        model.encode_video(random_images(3, 4, 3, 32, 32), normalize=True),
        model.encode_text(token_ids(3, 7), normalize=True),
    ):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)))


@torch.no_grad()
def test_a_video_is_the_mean_of_its_frames() -> None:
    model, videos = small_clip(), random_images(2, 4, 3, 24, 40)
    frames = torch.stack([model.encode_image(video) for video in videos])
    torch.testing.assert_close(model.encode_video(videos), frames.mean(dim=1))
    unit = F.normalize(frames.mean(dim=1), dim=-1)  # of embeddings as long as they are, as in training
    torch.testing.assert_close(model.encode_video(videos, normalize=True), unit)
    assert not torch.allclose(unit, F.normalize(F.normalize(frames, dim=-1).mean(dim=1), dim=-1))
    torch.testing.assert_close(model.encode_video(videos[:, :1]), model.encode_image(videos[:, 0]))


def test_gradient_checkpointing_reaches_both_towers() -> None:
    model, runs = small_clip(), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        assert model.visual.transformer.checkpointing is model.text.transformer.checkpointing is enable
        model.zero_grad()
        images, texts, scale = model(random_images(2, 3, 32, 32), token_ids(3, 5))
        (scale * images @ texts.T).diagonal().sum().backward()
        runs.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*runs, strict=True):
        torch.testing.assert_close(checkpointed, plain)


@torch.no_grad()
def test_text_ends_at_its_end_of_text_token() -> None:
    model, ids = small_clip(), token_ids(2, 5, 7)
    changed = ids.clone()
    changed[0, 3:] = 7  # after the end: never seen
    torch.testing.assert_close(model.encode_text(changed), model.encode_text(ids))
    changed[0, 1] = ids[0, 1] % 47 + 1  # before it
    assert not torch.allclose(model.encode_text(changed)[0], model.encode_text(ids)[0])


def test_shapes_that_are_refused() -> None:
    model = small_clip()
    with pytest.raises(ShapeError, match="must be \\(batch, frames, 3, H, W\\)"):
        model.encode_video(random_images(4, 3, 32, 32))
    with pytest.raises(ShapeError, match="no frames"):
        model.encode_video(torch.zeros(1, 0, 3, 32, 32))
    with pytest.raises(ShapeError, match=r"9 tokens, but .* at most 8"):
        model.encode_text(token_ids(8, length=9))
    with pytest.raises(ShapeError, match="must be \\(batch, length\\)"):
        model.encode_text(token_ids(3)[0])
