"""Cache the embeddings of a locked text tower: it never changes, so all captions of a run are encoded once, before it.

Before it, and not when they are drawn: an embedding's last bits depend on what else is in its batch, and a resumed run
must see those that an uninterrupted one saw.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception_encoder.models.clip import TextTransformer
from perception_encoder.models.precision import fast_autocast
from perception_encoder.preprocess.tokenizer import trim
from perception_encoder.pretraining.vocabulary import PADDING
from perception_encoder.progress import Track, untracked
from perception_encoder.training.distributed import gather, this_rank

MOST = 2**17  # captions; the embeddings of PE-Core-B and L take half a gibibyte then
AT_ONCE = 256  # captions that are encoded at a time


class CachedTexts:
    """Embeddings of captions by their token ids (U, T), on the tower's device; all ranks make them, each a share."""

    def __init__(self, tower: TextTransformer, tokens: Tensor, track: Track = untracked) -> None:
        self._length = tokens.shape[1]
        self._row_of = {row.tobytes(): number for number, row in enumerate(tokens.numpy())}
        device = tower.positional_embedding.device
        own = tokens[this_rank().share(len(tokens))]
        order = own.argmax(dim=-1).argsort()  # by length
        groups = order.split(AT_ONCE)
        with torch.no_grad(), fast_autocast(device):
            tracked = track(groups, "encoding captions", len(groups))
            parts = [tower(trim(own[rows]).to(device)).float() for rows in tracked]
            self._embeddings = gather(torch.cat(parts)[order.argsort()], len(tokens))  # (U, D)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return embeddings (u, D) of cached captions (u, t), padded or not."""
        rows = F.pad(tokens, (0, self._length - tokens.shape[1]), value=PADDING).cpu().numpy()
        return self._embeddings[[self._row_of[row.tobytes()] for row in rows]]
