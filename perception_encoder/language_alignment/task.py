"""Task of language alignment: the prediction of the tokens of answers (section 4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from perception_encoder.language_models.model import LanguageBatch, PerceptionLanguageModel
from perception_encoder.language_models.prompt import IGNORED
from perception_encoder.models.initialization import torch_generator
from perception_encoder.models.layers import drop_path
from perception_encoder.training.loop import Task, Validation
from perception_encoder.transfer import to_device


class LanguageAlignmentTask(Task):
    """Minimise the mean loss over the answers' tokens; other tokens have no loss.

    `rate`: of stochastic depth in the tower, drawn from (seed, step), so that a resumed run draws the same.
    """

    def __init__(
        self, model: PerceptionLanguageModel, rate: float, seed: int, validation: Validation | None = None
    ) -> None:
        self.model, self.validation = model, validation
        self._depth = model.vision.config.depth
        self._rate, self._seed = rate, seed

    def losses(self, batch: LanguageBatch) -> dict[str, Tensor]:
        """Return this rank's share of the mean loss per token."""
        branches = None
        if self._rate and batch.images.dim() == 4:
            generator = torch_generator(self._seed, 2, batch.step)
            drawn = drop_path(self._depth, len(batch.images), self._rate, generator)
            branches = to_device(drawn, batch.images.device)
        losses, _ = self.model(batch.ids, batch.labels, batch.is_image, batch.images, batch.parts, branches)
        return {"next_token": losses.sum() / max(1, batch.answer_tokens)}


class HeldOutAnswers:
    """Scores a model on held-out conversations: the loss per token, and the share of exact answers.

    The share is over conversations, or over questions if they are isolated. An answer is exact if every token is the
    most probable one given the correct tokens before it, which is what greedy generation would produce.
    """

    higher_is_better = {"loss": False, "exact": True}  # noqa: RUF012 (a constant)

    def __init__(self, model: PerceptionLanguageModel, batches: Sequence[LanguageBatch]) -> None:
        self.model, self.batches = model, batches

    def validate(self, metric: str) -> dict[str, float]:
        """Return both scores."""
        total, tokens, exact, rows = 0.0, 0, 0, 0
        device = next(self.model.parameters()).device
        for batch in self.batches:
            batch = batch.to(device)
            losses, right = self.model(batch.ids, batch.labels, batch.is_image, batch.images, batch.parts)
            total, tokens = total + float(losses.sum()), tokens + len(losses)
            labelled = batch.labels[:, 1:] != IGNORED
            answers, asked = labelled.nonzero()[:, 0], len(labelled)  # each token's answer: that of its row,
            if batch.parts is not None:  # or, if questions are isolated, of its part in the row
                answers = answers + len(labelled) * batch.parts.cpu()[:, 1:][labelled]
                asked = len(answers.unique())
            exact, rows = exact + asked - len(answers[~right.cpu()].unique()), rows + asked
        return {"loss": total / max(1, tokens), "exact": exact / max(1, rows)}
