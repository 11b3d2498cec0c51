"""The text tower: a causal transformer whose feature is the end-of-text token's (section 2.4, appendix B.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from perception_encoder.errors import ShapeError
from perception_encoder.models.config import TextConfig
from perception_encoder.models.layers.block import Transformer


class TextTransformer(nn.Module):
    """Token ids (B, T) to embeddings (B, output_dim); T may be anything up to the context length."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        table = torch.empty(config.vocabulary, config.width)  # drawn by `initialize`: nn.Embedding's own drawing takes
        self.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)  # a second of imports on "meta"
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads, 4 * config.width)
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.empty(config.width, config.output_dim))

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B output_dim"]:
        """Embeddings (B, output_dim), not normalised. The end-of-text token has the highest id of all."""
        if tokens.dim() != 2:
            raise ShapeError(f"token ids have the shape {tuple(tokens.shape)}; it must be (batch, length)")
        length = tokens.shape[1]
        if length > self.config.context_length:
            raise ShapeError(f"{length} tokens, but the text tower reads at most {self.config.context_length}")
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        x = self.transformer(x, causal=True)  # (B, T, D)
        ends = x[torch.arange(x.shape[0], device=x.device), tokens.argmax(dim=-1)]
        return self.ln_final(ends) @ self.text_projection

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.transformer.checkpointing = enable
