"""What pretraining trains: the two towers, and the token that stands for a hidden patch.

One forward pass does all that needs gradients, so that DDP and FSDP can wrap it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from perception_encoder.losses.mask_regularization import mask_regularization_loss
from perception_encoder.models.clip import CLIP
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import trim
from perception_encoder.pretraining.kept_texts import KeptTexts
from perception_encoder.train.distributed import in_chunks

LENGTH_GROUPS = 4  # captions are encoded in groups of like length, so that few pay for the longest


class Towers(nn.Module):
    """A CLIP model as it is trained.

    `masked`: with a mask token, which is no part of the model that comes out. `chunk`: pictures or captions whose
    activations are held at a time; None for all. `kept`: features of all captions, of a locked text tower.
    """

    def __init__(
        self, clip: CLIP, masked: bool = False, chunk: int | None = None, kept: KeptTexts | None = None
    ) -> None:
        super().__init__()
        self.clip, self.chunk, self.kept = clip, chunk, kept
        self.mask_token = nn.Parameter(torch.zeros(clip.visual.config.width)) if masked else None

    def forward(
        self, pictures: Tensor, tokens: Tensor, masked: Tensor | None = None, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Embeddings of uint8 pictures (b, 3, H, W) and of token ids (u, T), the logit scale, and the mask loss.

        Of videos (b, F, 3, H, W) the means of their frames' embeddings, and no mask loss.
        """
        encode = self.clip.encode_video if pictures.dim() == 5 else self.clip.encode_image
        images = in_chunks(lambda some: encode(to_float(some)), pictures, self.chunk)
        texts = self.kept(tokens) if self.kept else encode_by_length(self.clip, tokens, self.chunk)
        loss = None
        if self.mask_token is not None and masked is not None and masks is not None:
            loss = self._mask_loss(pictures[masked], masks, self.mask_token)
        return images.float(), texts.float(), self.clip.logit_scale.exp(), loss

    def _mask_loss(self, pictures: Tensor, masks: Tensor, mask_token: Tensor) -> Tensor:
        visual, prefix = self.clip.visual, int(self.clip.visual.config.class_token)

        def losses(rows: Tensor) -> Tensor:
            """The sum over some rows (m,), which hide as many patches each."""
            pixels, hidden = to_float(pictures[rows]), masks[rows]
            with torch.no_grad():
                whole = visual.forward_features(pixels)[:, prefix:]
            seen = visual.forward_features(pixels, mask=hidden, mask_token=mask_token)[:, prefix:]
            return len(rows) * mask_regularization_loss(seen.float(), whole.float(), hidden)[None]

        if not len(masks):
            return 0 * mask_token.sum()  # no copy is this rank's, but the others wait for its gradient
        rows = torch.arange(len(masks), device=masks.device)
        return in_chunks(losses, rows, self.chunk).sum() / len(masks)


def encode_by_length(model: CLIP, tokens: Tensor, chunk: int | None = None) -> Tensor:
    """`model.encode_text` of padded token ids (U, T), each group of like lengths cut to its own longest."""
    order = tokens.argmax(dim=-1).argsort()
    size = chunk or -(-len(order) // LENGTH_GROUPS)
    groups = [in_chunks(model.encode_text, trim(tokens[rows]), chunk) for rows in order.split(size)]
    return torch.cat(groups)[order.argsort()]
