"""Train only the tokens that a run's captions use.

The CLIP vocabulary has 49,408 tokens, the captions of a small dataset a few thousand. A run trains a table of those
alone: the optimizer is spared the rest, and afterwards a word that no caption had adds nothing rather than noise.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from perception_encoder.models.clip import CLIP
from perception_encoder.preprocess.tokenizer import Tokenizer

PADDING = 0


class CaptionVocabulary:
    """The ids of some texts' tokens, renumbered from 0 in their own order (so the end of a text stays the highest)."""

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        rows = tokenizer(texts).unique(dim=0)
        self.ids = torch.cat([torch.tensor([PADDING]), rows.flatten()]).unique()  # ascending
        self.captions = torch.searchsorted(self.ids, rows)
        """Renumbered ids (U, T) of the texts, each once, in an order that does not depend on the texts'."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Renumbered ids (U, T) of texts, all of whose tokens are known."""
        return torch.searchsorted(self.ids, self.tokenizer(texts))

    @torch.no_grad()
    def narrow(self, model: CLIP) -> None:
        """Leave a text tower only the rows of these tokens, in place."""
        table = model.text.token_embedding.weight
        model.text.token_embedding = nn.Embedding.from_pretrained(table[self.ids].clone(), freeze=False)

    @torch.no_grad()
    def widen(self, model: CLIP, others: Tensor | None = None) -> None:
        """Give a text tower the whole vocabulary again, in place; other tokens' rows are zero, or those of `others`."""
        rows = model.text.token_embedding.weight
        table = (
            rows.new_zeros(model.text.config.vocabulary, rows.shape[1])
            if others is None
            else others.to(rows.device, copy=True)
        )
        table[self.ids] = rows
        model.text.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)
