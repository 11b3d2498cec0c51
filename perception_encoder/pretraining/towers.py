"""Run both towers of a model as they are trained, with the token that stands for a hidden patch.

One forward pass does all that needs gradients, so that DDP and FSDP can wrap it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from perception_encoder.losses.mask_regularization import mask_regularization_loss
from perception_encoder.models.clip import CLIP
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import trim
from perception_encoder.pretraining.cached_texts import CachedTexts
from perception_encoder.training.distributed import in_chunks, pad_rows

LENGTH_GROUPS = 4  # captions are encoded in groups of like length, so that few pay for the longest


class TowerOutputs(NamedTuple):
    """What both towers make of a batch; a tuple, so that the hooks of DDP and FSDP find its tensors."""

    images: Tensor
    """Embeddings (b, D), float32."""
    texts: Tensor
    """Embeddings (u, D), float32."""
    logit_scale: Tensor
    mask_loss: Tensor | None = None


class Towers(nn.Module):
    """A CLIP model as it is trained, by all ranks at once: each runs it on as many rows, so that each runs as often.

    `masked`: with a mask token, which does not belong to the model that comes out. `chunk`: images, frames or captions
    whose activations are held at a time; None for all. `cached`: embeddings of all captions, of a locked text tower.
    """

    def __init__(
        self, clip: CLIP, masked: bool = False, chunk: int | None = None, cached: CachedTexts | None = None
    ) -> None:
        super().__init__()
        self.clip, self.chunk, self.cached = clip, chunk, cached
        self.mask_token = nn.Parameter(torch.zeros(clip.visual.config.width)) if masked else None

    def forward(
        self, images: Tensor, tokens: Tensor, masked: Tensor | None = None, masks: Tensor | None = None
    ) -> TowerOutputs:
        """Encode uint8 images (b, 3, H, W) and token ids (u, T); rows `masked` are encoded with `masks`, too.

        Videos (b, F, 3, H, W) get the means of their frames' embeddings, and no mask loss.
        """
        encoded = self._encode_images(pad_rows(images))[: len(images)]
        texts = self._encode_texts(tokens)
        loss = None
        if self.mask_token is not None and masked is not None and masks is not None:
            copies = images[pad_rows(masked)]
            loss = self._mask_loss(copies, pad_rows(masks), self.mask_token, len(masks))
        # copies, not views of the padded rows, which FSDP's hooks would not follow
        encoded, texts = encoded.to(torch.float32, copy=True), texts.to(torch.float32, copy=True)
        return TowerOutputs(encoded, texts, self.clip.logit_scale.exp(), loss)

    def _encode_images(self, images: Tensor) -> Tensor:
        """Return embeddings (b, D) of images or videos; frames are encoded in chunks as images are."""
        frames = images.flatten(0, 1) if images.dim() == 5 else images
        encoded = in_chunks(lambda some: self.clip.encode_image(to_float(some)), frames, self.chunk)
        return encoded.unflatten(0, images.shape[:2]).mean(dim=1) if images.dim() == 5 else encoded

    def _encode_texts(self, tokens: Tensor) -> Tensor:
        """Return embeddings (u, D) of token ids (u, T)."""
        if self.cached is not None:
            return self.cached(tokens)
        return encode_by_length(self.clip, pad_rows(tokens), self.chunk)[: len(tokens)]

    def _mask_loss(self, images: Tensor, masks: Tensor, mask_token: Tensor, count: int) -> Tensor:
        """Return the mean over the first `count` rows; all are run."""
        visual, prefix = self.clip.visual, int(self.clip.visual.config.class_token)

        def losses(rows: Tensor) -> Tensor:
            """The sum over some rows (m,), which hide as many patches each."""
            pixels, hidden = to_float(images[rows]), masks[rows]
            with torch.no_grad():
                whole = visual.forward_features(pixels)[:, prefix:]
            seen = visual.forward_features(pixels, mask=hidden, mask_token=mask_token)[:, prefix:]
            own = int((rows < count).sum())
            if not own:
                return 0 * seen.float().sum()[None]  # the others wait for its gradient
            return own * mask_regularization_loss(seen[:own].float(), whole[:own].float(), hidden[:own])[None]

        rows = torch.arange(len(masks), device=masks.device)
        return in_chunks(losses, rows, self.chunk).sum() / max(1, count)


def encode_by_length(model: CLIP, tokens: Tensor, chunk: int | None = None) -> Tensor:
    """`model.encode_text` of padded token ids (U, T), each group of like lengths cut to its own longest."""
    order = tokens.argmax(dim=-1).argsort()
    size = chunk or -(-len(order) // LENGTH_GROUPS)
    groups = [in_chunks(model.encode_text, trim(tokens[rows]), chunk) for rows in order.split(size)]
    return torch.cat(groups)[order.argsort()]
