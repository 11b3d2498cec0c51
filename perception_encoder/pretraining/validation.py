"""Score two towers on held-out pairs during training, by retrieval or by zero-shot accuracy over the labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perception_encoder.data.pairs import PairSource, true_pairs
from perception_encoder.errors import DataError, InputError
from perception_encoder.preprocess.augmentation import augment
from perception_encoder.preprocess.prompts import PHOTO_TEMPLATES
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.sources import Sources
from perception_encoder.pretraining.towers import Towers
from perception_encoder.training.distributed import Exchange, gather, own_device, this_rank

logger = logging.getLogger(__name__)

RETRIEVAL, ZERO_SHOT = ("retrieval", "image_to_text", "text_to_image"), "zero_shot"
AT_ONCE = 256  # images or texts per rank and pass

T = TypeVar("T")


@dataclass(frozen=True)
class _Texts:
    """The texts of a pair."""

    caption: str
    captions: AbstractSet[str]
    label: str


class PairValidation:
    """Scores towers on held-out pairs by retrieval or zero-shot classification; all ranks must create it.

    A pair has the same caption every time. `table`: token rows of words outside the training captions, zero by default,
    as in the weights that a run writes.
    """

    higher_is_better: Mapping[str, bool] = dict.fromkeys((*RETRIEVAL, ZERO_SHOT), True)

    def __init__(
        self, config: PretrainingConfig, towers: Towers, sources: Sources, table: Tensor | None = None
    ) -> None:
        self.seed, self.frames = config.seed, config.frames
        self.towers, self.table = towers, table
        self.pairs, self.vocabulary = sources.validation, sources.vocabulary
        self.exchange, self.device = Exchange(), own_device()
        self.tokenize = replace(tokenizer(towers.clip), warns=False)

    def validate(self, metric: str) -> dict[str, float]:
        """Return R@1 in both directions and their mean, or the accuracy; DataError if there are too few pairs."""
        with self._whole_vocabulary():
            images, pairs = self._encode_images()
            if metric == ZERO_SHOT:
                return {ZERO_SHOT: self._zero_shot(images, pairs)}
            texts = list(dict.fromkeys(pair.caption for pair in pairs))
            if len(texts) < 2:
                raise DataError("validation needs two readable pairs with different captions; set validation=null")
            scores = images @ self._encode_texts(texts).T  # (n, u)
        truth = true_pairs([pair.captions for pair in pairs], texts)
        to_text, to_image = hits(scores, truth), hits(scores.T, truth.T)
        return dict(zip(RETRIEVAL, ((to_text + to_image) / 2, to_text, to_image), strict=True))

    def _zero_shot(self, images: Tensor, pairs: Sequence[_Texts]) -> float:
        """Return the accuracy on the images with a label; a class is the mean of its prompts."""
        rows = [row for row, pair in enumerate(pairs) if pair.label]
        labels = sorted({pairs[row].label for row in rows})
        if len(labels) < 2:
            raise DataError("zero-shot validation needs images of two labels; set validation.metric=retrieval")
        prompts = [template.format(label) for label in labels for template in PHOTO_TEMPLATES]
        classes = self._encode_texts(prompts).view(len(labels), len(PHOTO_TEMPLATES), -1).mean(1)
        truth = torch.tensor([[label == pairs[row].label for label in labels] for row in rows])
        return hits(images[rows] @ F.normalize(classes, dim=-1).T, truth)

    def _encode_images(self) -> tuple[Tensor, list[_Texts]]:
        """Return unit embeddings (n, D) of the readable images, on the CPU, and their texts."""
        size = self.towers.clip.visual.config.image_size
        shape = (3, size, size) if self.frames is None else (self.frames, 3, size, size)
        no_text = self.tokenize([""]).to(self.device)
        parts, texts = list[Tensor](), list[_Texts | None]()
        for start, chunk in _chunks(self.pairs):
            rows = range(len(chunk))[this_rank().share(len(chunk))]
            pairs = [self._read(*chunk[row], start + row, size) for row in rows]
            texts += [text for part in self.exchange([text for _, text in pairs]) for text in part]
            pixels = torch.zeros(len(pairs), *shape, dtype=torch.uint8)
            for row, (image, _) in enumerate(pairs):
                if image is not None:
                    pixels[row] = image
            encoded = self.towers(pixels.to(self.device), no_text).images
            parts.append(gather(encoded, len(chunk)).cpu())
        readable = [row for row, text in enumerate(texts) if text is not None]
        return F.normalize(torch.cat(parts)[readable], dim=-1), [text for text in texts if text is not None]

    def _read(self, source: PairSource, index: int, number: int, size: int) -> tuple[Tensor | None, _Texts | None]:
        """Return a pair with its image resized to the size; None, logged, if it is unreadable."""
        try:
            pair = source.load(index, size)
        except InputError as error:
            logger.warning("skipped in validation: %s", error)
            return None, None
        caption = pair.caption(np.random.default_rng([self.seed, 2, number]))
        return augment(pair.image, size, None, ()), _Texts(caption, pair.captions, pair.label)

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        size = self.towers.clip.visual.config.image_size
        no_image = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.device)
        parts = []
        for _, chunk in _chunks(texts):
            tokens = self.tokenize(chunk)[this_rank().share(len(chunk))].to(self.device)
            parts.append(gather(self.towers(no_image, tokens).texts, len(chunk)).cpu())
        return F.normalize(torch.cat(parts), dim=-1)

    @contextmanager
    def _whole_vocabulary(self) -> Iterator[None]:
        """Use the full vocabulary and no cached texts until the block ends; training has only its captions' tokens."""
        text, cached = self.towers.clip.text, self.towers.cached
        table, self.towers.cached = text.token_embedding, None
        try:
            if self.vocabulary:
                self.vocabulary.widen(self.towers.clip, self.table)
            yield
        finally:
            text.token_embedding, self.towers.cached = table, cached


def hits(scores: Tensor, truth: Tensor) -> float:
    """Return the share of rows (n, m) in which a true column scores higher than all others."""
    true = scores.masked_fill(~truth, -torch.inf).amax(dim=1)
    false = scores.masked_fill(truth, -torch.inf).amax(dim=1)
    return (true > false).double().mean().item()


def _chunks(items: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """Yield the start and the items of each part that all ranks encode in a pass."""
    size = AT_ONCE * this_rank().world_size
    for start in range(0, len(items), size):
        yield start, items[start : start + size]
