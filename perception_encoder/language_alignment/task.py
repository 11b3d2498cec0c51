"""Task of language alignment: next-token prediction of answers (section 4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from perception_encoder.language_alignment.batches import LanguageBatch
from perception_encoder.language_alignment.model import PerceptionLanguageModel
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.layers import drop_path
from perception_encoder.training.task import Task, Validation


class AlignedModel(nn.Module):
    """The model in training and validation; every pass uses `forward` so that DDP and FSDP can wrap it."""

    def __init__(self, model: PerceptionLanguageModel, grid: tuple[int, int]) -> None:
        """`grid`: patches of an image, rows and columns."""
        super().__init__()
        self.model, self.grid = model, grid

    def forward(
        self,
        ids: Tensor,
        labels: Tensor,
        is_image: Tensor,
        images: Tensor,
        parts: Tensor | None = None,
        branches: Tensor | None = None,
        scored: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the losses (K,) of the labelled tokens; if `scored`, also which rows or parts are correct."""
        embeddings = self.embed(ids, is_image, images, branches)
        if scored:
            return self.model.token_scores(embeddings, labels, parts)
        return self.model.token_losses(embeddings, labels, parts), None

    def embed(self, ids: Tensor, is_image: Tensor, images: Tensor, branches: Tensor | None = None) -> Tensor:
        """Return the decoder's input (B, T, dim); `images` are pixels (N, 3, S, S) or features (N, P, width)."""
        model = self.model
        features = model.image_features(images, branches) if images.dim() == 4 else images
        tokens = model.project(features.to(next(model.projector.parameters()).dtype), self.grid).flatten(0, 1)
        return model.embed(ids, is_image, tokens)


class LanguageAlignmentTask(Task):
    """Minimise the mean loss over the answers' tokens; other tokens have no loss.

    `rate`: of stochastic depth in the tower, drawn from (seed, step), so that a resumed run draws the same.
    """

    def __init__(self, model: AlignedModel, rate: float, seed: int, validation: Validation | None = None) -> None:
        self.model, self.validation = model, validation
        self._depth = model.model.vision.config.depth
        self._rate, self._seed = rate, seed

    def losses(self, batch: LanguageBatch) -> dict[str, Tensor]:
        """Return this rank's share of the mean loss per token."""
        branches = None
        if self._rate and batch.images.dim() == 4:
            generator = torch_generator(self._seed, 2, batch.step)
            branches = drop_path(self._depth, len(batch.images), self._rate, generator).to(batch.images.device)
        losses, _ = self.model(batch.ids, batch.labels, batch.is_image, batch.images, batch.parts, branches)
        return {"next_token": losses.sum() / max(1, batch.answer_tokens)}


class HeldOutAnswers:
    """Scores a model on held-out conversations: the loss per token, and the share of exact answers.

    The share is over conversations, or over questions if they are isolated. An answer is exact if every token is the
    most probable one given the correct tokens before it, which is what greedy generation would produce.
    """

    higher_is_better = {"loss": False, "exact": True}  # noqa: RUF012 (a constant)

    def __init__(self, model: AlignedModel, batches: Sequence[LanguageBatch]) -> None:
        self.model, self.batches = model, batches

    def validate(self, metric: str) -> dict[str, float]:
        """Return both scores."""
        total, tokens, exact, rows = 0.0, 0, 0, 0
        device = next(self.model.parameters()).device
        for batch in self.batches:
            batch = batch.to(device)
            losses, right = self.model(batch.ids, batch.labels, batch.is_image, batch.images, batch.parts, scored=True)
            total, tokens = total + float(losses.sum()), tokens + len(losses)
            exact, rows = exact + int(right.sum()), rows + len(right)
        return {"loss": total / max(1, tokens), "exact": exact / max(1, rows)}
