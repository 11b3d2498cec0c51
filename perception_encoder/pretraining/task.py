"""Train two towers on pairs: contrastive loss with mask regularization, or distillation of a teacher.

Validation: retrieval on held-out pairs, or zero-shot accuracy over their labels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from perception_encoder.data.pairs import ImageTextBatch, PairSource, true_pairs
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.files import digest
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.losses.pretraining import contrastive_loss, logit_distillation_loss
from perception_encoder.preprocess.augmentation import augment
from perception_encoder.preprocess.prompts import PHOTO_TEMPLATES
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.config import MAX_LOGIT_SCALE, TEACHER_LOGIT_SCALE, PretrainingConfig
from perception_encoder.pretraining.sources import Sources
from perception_encoder.pretraining.towers import TrainingTowers
from perception_encoder.training.distributed import Exchange, gather, own_device, this_rank
from perception_encoder.training.loop import Validation

logger = logging.getLogger(__name__)


class ImageTextTask:
    """Base of tasks on a model with a parameter called `logit_scale`."""

    def __init__(self, model: nn.Module, validation: Validation | None = None) -> None:
        self.model, self.validation, self.left_out = model, validation, 0

    @property
    def logit_scale(self) -> nn.Parameter:
        (scale,) = (p for name, p in self.model.named_parameters() if name.endswith("logit_scale"))
        return scale

    def report(self) -> dict[str, float]:
        """Return the logit scale, and the number of unreadable samples so far, if any."""
        left_out = {"left_out": float(self.left_out)} if self.left_out else {}
        return {"logit_scale": round(self.logit_scale.exp().item(), 3), **left_out}

    @torch.no_grad()
    def after_step(self) -> None:
        self.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))


T = TypeVar("T", Image.Image, str)
Item = TypeVar("Item")


class Teacher:
    """An `Encoder` as a teacher.

    `image_size`: side of its images, in pixels. `identity`: of its weights; part of the run's fingerprint. `remember`:
    number of images and captions whose embeddings are cached. Those are encoded one at a time, so that they depend
    neither on the rest of the batch nor on where a run was resumed.
    """

    def __init__(self, encoder: Encoder, image_size: int, identity: str, remember: int = 0) -> None:
        self.encoder, self.image_size, self.identity, self.remember = encoder, image_size, identity, remember
        self._cache: dict[str, np.ndarray] = {}

    def embed(
        self, images: UInt8[Tensor, "B 3 H W"], texts: Sequence[str]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "U D"]]:
        """Return unit embeddings of images and texts, float32, on the CPU."""
        pil_images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.cpu()]
        image_vectors = self._encode(pil_images, self.encoder.encode_images)
        return image_vectors, self._encode(list(texts), self.encoder.encode_texts)

    def _encode(self, inputs: list[T], encode: Callable[[Sequence[T]], np.ndarray]) -> Tensor:
        if not self.remember or not inputs:
            return torch.from_numpy(encode(inputs))
        rows = []
        for item in inputs:
            key = digest(item) if isinstance(item, str) else digest(item.size, item.tobytes())
            row = self._cache.get(key)
            if row is None:
                row = encode([item])[0]
                if len(self._cache) < self.remember:
                    self._cache[key] = row
            rows.append(row)
        return torch.from_numpy(np.stack(rows))


def load_teacher(name: str, remember: int = 0) -> Teacher:
    """Load a model of this package, by name, alias or path, on this rank's device, bfloat16 where that is fast.

    Raises what `load` does, and ConfigError for a model without a text tower.
    """
    encoder = load(name, own_device())
    if encoder.tokenizer is None:
        raise ConfigError(f"the teacher is {name}, which has no text tower; use a Core model")
    return Teacher(encoder, encoder.visual.config.image_size, encoder.weight_hash, remember)


class ContrastiveTask(ImageTextTask):
    """Pull images and their captions together, push all others apart; pull masked images towards the whole ones.

    On several ranks, the losses are this rank's share of the whole batch's (section 2.1).
    """

    def __init__(self, towers: TrainingTowers, mask_weight: float = 1.0, validation: Validation | None = None) -> None:
        super().__init__(towers, validation)
        self.mask_weight = mask_weight

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """Return {"contrastive": …, "mask": …} (the latter if the batch has masks), computed in float32."""
        self.left_out = batch.left_out
        towers = self.model(batch.images, batch.tokens, batch.masked, batch.masks)
        captions = batch.image_positives.shape[1]
        with torch.autocast(towers.images.device.type, enabled=False):
            contrastive = contrastive_loss(
                gather(F.normalize(towers.images, dim=-1), len(batch)),
                gather(F.normalize(towers.texts, dim=-1), captions),
                towers.logit_scale,
                batch.image_positives,
                batch.text_positives,
                batch.own_images,
                batch.own_tokens,
            )
        if towers.mask_loss is None:
            return {"contrastive": contrastive}
        return {"contrastive": contrastive, "mask": self.mask_weight * batch.masked_share * towers.mask_loss}


class DistillationTask(ImageTextTask):
    """Fit a student to a teacher's logits per batch, with the contrastive loss if it has a weight (section 2.4).

    `student`: takes images of `image_size`; the batch's may be larger. On several ranks, the losses are this rank's
    share of the whole batch's.
    """

    def __init__(
        self,
        student: TrainingTowers,
        teacher: Teacher,
        image_size: int,
        teacher_logit_scale: float = TEACHER_LOGIT_SCALE,
        contrastive_weight: float = 0.0,
        validation: Validation | None = None,
    ) -> None:
        super().__init__(student, validation)
        self.teacher, self.image_size = teacher, image_size
        self.teacher_logit_scale, self.contrastive_weight = teacher_logit_scale, contrastive_weight

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """Return {"distillation": …, "contrastive": …} (the latter if it has a weight), computed in float32."""
        self.left_out = batch.left_out
        towers = self.model(scale_down(batch.images, self.image_size), batch.tokens)
        size, captions = len(batch), batch.image_positives.shape[1]
        with torch.autocast(towers.images.device.type, enabled=False):
            taught_images, taught_texts = self.teacher.embed(batch.images, batch.texts)
            student = (
                gather(F.normalize(towers.images, dim=-1), size),
                gather(F.normalize(towers.texts, dim=-1), captions),
            )
            teacher = gather(taught_images.to(towers.images), size), gather(taught_texts.to(towers.texts), captions)
            local, scale = (batch.own_images, batch.own_tokens), towers.logit_scale
            losses = {
                "distillation": logit_distillation_loss(*student, scale, *teacher, self.teacher_logit_scale, *local)
            }
            if self.contrastive_weight:
                losses["contrastive"] = self.contrastive_weight * contrastive_loss(
                    *student, scale, batch.image_positives, batch.text_positives, *local
                )
        return losses


def scale_down(images: Tensor, size: int) -> Tensor:
    """Resize uint8 images (B, 3, H, W) to (B, 3, size, size), antialiased, unless they have that size."""
    if images.shape[-1] == size:
        return images
    exact = images if images.device.type == "cpu" else images.float()  # no other device scales uint8
    scaled = F.interpolate(exact, size=(size, size), mode="bilinear", antialias=True)
    return scaled if scaled.dtype == torch.uint8 else scaled.round().byte()


RETRIEVAL, ZERO_SHOT = ("retrieval", "image_to_text", "text_to_image"), "zero_shot"
AT_ONCE = 256  # images or texts per rank and pass


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
        self, config: PretrainingConfig, towers: TrainingTowers, sources: Sources, table: Tensor | None = None
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
        no_text = self.tokenize([""])
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
            tokens = self.tokenize(chunk)[this_rank().share(len(chunk))]
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


def _chunks(items: Sequence[Item]) -> Iterator[tuple[int, Sequence[Item]]]:
    """Yield the start and the items of each part that all ranks encode in a pass."""
    size = AT_ONCE * this_rank().world_size
    for start in range(0, len(items), size):
        yield start, items[start : start + size]
