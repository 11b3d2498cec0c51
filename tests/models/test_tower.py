"""The tower of a model is its vision transformer, whole or beside a text tower."""

from __future__ import annotations

import torch

from perception_encoder.models.checkpoints.weights import create_model, weight_hash
from perception_encoder.models.tower import Tower


def test_a_tower_gives_tokens_as_their_blocks_leave_them() -> None:
    model = create_model("builtin")
    whole, alone = Tower.of(model), Tower.of(model.visual)
    assert whole.model is alone.model is model.visual and whole.norm is model.visual.ln_post
    assert (whole.depth, whole.patch_size, whole.image_size, whole.width) == (12, 16, (128, 128), 192)
    assert whole.class_token and not whole.fixed_size
    assert whole.weight_hash == weight_hash(model) != alone.weight_hash == weight_hash(model.visual)
    pixels = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, last = whole.run(pixels, [4, 11])
        torch.testing.assert_close(last, model.visual.forward_features(pixels, norm=False))
        (earlier,) = model.visual.forward_intermediates(pixels, [4], output_fmt="NLC", intermediates_only=True)
    assert first.shape == (2, 1 + 2 * 3, 192)
    torch.testing.assert_close(first[:, 1:], earlier)
