"""Average the weights that a run began with and those that it ended with (WiSE-FT, arXiv 2109.01903).

Further training on other images forgets a little of what was there; between the two ends are weights that know most
of both. Only of a run that begins with weights, and stays near enough to them: measure it.
"""

from __future__ import annotations

import torch

from perception_encoder.models.clip import CLIP


@torch.no_grad()
def average_with(model: CLIP, initial: CLIP, share: float) -> None:
    """Make a model's weights the mean of its own and `initial`'s, which counts by `share`, in place.

    Position tables are resampled to the model's size; the logit scale is the model's own.
    """
    initial.visual.set_image_size(model.visual.config.image_size)
    others = dict(initial.named_parameters())
    for name, weight in model.named_parameters():
        if name != "logit_scale":
            weight.lerp_(others[name].to(weight), share)
