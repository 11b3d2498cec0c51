"""Train only the tokens that a run's captions use.

The CLIP vocabulary has 49,408 tokens, the captions of a small dataset a few thousand. A run trains a table of only
those: the optimizer skips the rest, and a word outside the captions then adds nothing instead of noise.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from perception_encoder.models.clip import CLIP
from perception_encoder.preprocess.tokenizer import Tokenizer

PADDING = 0


class CaptionVocabulary:
    """The token ids of some texts, renumbered from 0 in order, so that the end of a text stays the highest."""

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        rows = tokenizer(texts).unique(dim=0)
        self.ids = torch.cat([torch.tensor([PADDING]), rows.flatten()]).unique()  # ascending
        self.captions = torch.searchsorted(self.ids, rows)
        """Renumbered ids (U, T) of the distinct texts, in an order that does not depend on theirs."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Return the renumbered ids (U, T) of texts whose tokens are all known."""
        return torch.searchsorted(self.ids, self.tokenizer(texts))

    @torch.no_grad()
    def narrow(self, model: CLIP) -> None:
        """Reduce a text tower's token table to these tokens, in place."""
        table = model.text.token_embedding.weight
        model.text.token_embedding = nn.Embedding.from_pretrained(table[self.ids].clone(), freeze=False)

    @torch.no_grad()
    def widen(self, model: CLIP, others: Tensor | None = None) -> None:
        """Restore a text tower's whole vocabulary, in place; other tokens' rows are zero, or those of `others`."""
        rows = model.text.token_embedding.weight
        table = (
            rows.new_zeros(model.text.config.vocabulary, rows.shape[1])
            if others is None
            else others.to(rows.device, copy=True)
        )
        table[self.ids] = rows
        model.text.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)
