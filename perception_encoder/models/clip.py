"""The two-tower model: images, videos and text in one space (section 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from perception_encoder.errors import ShapeError
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.layers import Transformer
from perception_encoder.models.vision_transformer import VisionTransformer


class CLIP(nn.Module):
    """A vision tower `.visual`, a text tower `.text`, and the logarithm of the logit scale, `.logit_scale`."""

    def __init__(self, vision: VisionConfig, text: TextConfig, name: str = "custom") -> None:
        super().__init__()
        self.name = name
        self.visual = VisionTransformer(vision, name)
        self.text = TextTransformer(text)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of a text, T."""
        return self.text.config.context_length

    def encode_image(
        self,
        images: Float[Tensor, "B 3 H W"],
        normalize: bool = False,
        padding_mask: Bool[Tensor, "B h w"] | None = None,
    ) -> Float[Tensor, "B output_dim"]:
        """Return image embeddings, of unit length with `normalize`."""
        features = self.visual(images, padding_mask)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_video(
        self, videos: Float[Tensor, "B F 3 H W"], normalize: bool = False
    ) -> Float[Tensor, "B output_dim"]:
        """Return the mean of the frames' embeddings (not normalized), of unit length with `normalize`.

        Training, evaluation and `Encoder.encode` average in the same way.
        """
        if videos.dim() != 5:
            raise ShapeError(f"videos have the shape {tuple(videos.shape)}; it must be (batch, frames, 3, H, W)")
        if videos.shape[1] == 0:
            raise ShapeError("videos have no frames; a video needs at least one")
        frames = self.encode_image(videos.flatten(0, 1)).unflatten(0, videos.shape[:2])
        features = frames.mean(dim=1)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, tokens: Int[Tensor, "B T"], normalize: bool = False) -> Float[Tensor, "B output_dim"]:
        """Return text embeddings, of unit length with `normalize`."""
        features = self.text(tokens)
        return F.normalize(features, dim=-1) if normalize else features

    def forward(
        self, image: Float[Tensor, "B 3 H W"] | None = None, text: Int[Tensor, "K T"] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Return unit image embeddings, unit text embeddings, and the logit scale (the factor, not its logarithm).

        As in open_clip, the embeddings of an omitted input are None.
        """
        return (
            None if image is None else self.encode_image(image, normalize=True),
            None if text is None else self.encode_text(text, normalize=True),
            self.logit_scale.exp(),
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.visual.set_grad_checkpointing(enable)
        self.text.set_grad_checkpointing(enable)


class TextTransformer(nn.Module):
    """Token ids (B, T) to embeddings (B, output_dim); T may be anything up to the context length."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        table = torch.empty(config.vocabulary, config.width)  # drawn by `initialize`: nn.Embedding's own drawing takes
        self.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)  # a second of imports on "meta"
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.transformer = Transformer(config.width, config.depth, config.heads, 4 * config.width, causal=True)
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.empty(config.width, config.output_dim))

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B output_dim"]:
        """Return embeddings, not normalized. The end-of-text token has the highest id."""
        if tokens.dim() != 2:
            raise ShapeError(f"token ids have the shape {tuple(tokens.shape)}; it must be (batch, length)")
        length = tokens.shape[1]
        if length > self.config.context_length:
            raise ShapeError(f"{length} tokens, but the text tower reads at most {self.config.context_length}")
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        x = self.transformer(x)  # (B, T, D)
        ends = x[torch.arange(x.shape[0], device=x.device), tokens.argmax(dim=-1)]
        return self.ln_final(ends) @ self.text_projection

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing its activations."""
        self.transformer.checkpointing = enable
