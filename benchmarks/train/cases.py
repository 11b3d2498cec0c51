"""What is timed, and on what: the built-in model on its recipe's batches, and PE-Core-B16 on noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.train.contenders import (
    Step,
    all_captions,
    open_clip_model,
    open_clip_step,
    our_model,
    our_step,
)
from perception_encoder.data.pairs import ImageTextBatch, PairBatches, ResolutionStage
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.towers import CachedTexts, CaptionVocabulary
from perception_encoder.training.optimizer import OptimizerConfig
from synthetic.builtin.rules import read_builtin

BATCHES = 3  # made for each resolution
LENGTH = 32  # tokens of a caption, at most
B16, OPEN_CLIP_B16, B16_BATCH = "PE-Core-B16-224", "PE-Core-B-16", 16
FIXED = 96  # resolution of the case with a fixed text tower, and of the profile


@dataclass(frozen=True)
class Case:
    """Two contenders, made when their turn comes, on the same batches."""

    title: str
    makers: dict[str, Callable[[], Step]]
    batches: list[ImageTextBatch]
    alternate: bool = True
    """Whether their steps alternate, so that the machine's noise falls on both; else one is gone before the other."""


class NanoData:
    """The recipe's own batches by resolution, and the vocabulary of its captions."""

    def __init__(self, config: PretrainingConfig, directories: list[Path]) -> None:
        by_source = read_builtin(directories, "train", config.image_side).by_source()
        used = {source: weight for source, weight in config.weights.items() if source in by_source}
        texts = {text for source in used for sample in by_source[source] for text in sample.pair.captions}
        self.config, self.vocabulary = config, CaptionVocabulary(tokenizer(create_model(config.model)), texts)
        sets = [by_source[source].balanced(config.balance) for source in used]
        self.batches: dict[int, list[ImageTextBatch]] = {}
        for stage in config.stages:
            one = (ResolutionStage(image_size=stage.image_size, steps=BATCHES),)
            make = PairBatches(
                sets, list(used.values()), config.batch_size, one, config.augmentation, self.vocabulary, config.seed
            )
            self.batches[stage.image_size] = [make(step) for step in range(BATCHES)]

    def ours(self, locked: bool = False) -> Step:
        """Our step, with a fixed text tower or a trained one."""
        model = our_model(self.config.model, self.vocabulary)
        cached = CachedTexts(model.text, all_captions(self.batches[FIXED], LENGTH)) if locked else None
        return our_step(model, self.config.optimizer, cached)

    def theirs(self, size: int, locked: bool = False) -> Step:
        """open_clip's."""
        model = open_clip_model(self.config.model, size)
        if locked:
            model.lock_text_tower()
        return open_clip_step(model, self.vocabulary, LENGTH)

    def case(self, size: int, locked: bool = False) -> Case:
        """One resolution of the recipe."""
        makers = {"ours": lambda: self.ours(locked), "open_clip": lambda: self.theirs(size, locked)}
        return Case(f"nano, {size} px{', text fixed' if locked else ''}", makers, self.batches[size])

    def cases(self) -> list[Case]:
        """Each resolution of the recipe, and one with the text tower fixed."""
        return [*(self.case(size) for size in self.batches), self.case(FIXED, locked=True)]

    def captions_a_second(self) -> float:
        """How fast the captions are encoded that a fixed text tower caches."""
        model, captions = our_model(self.config.model, self.vocabulary), all_captions(self.batches[FIXED], LENGTH)
        start = time.perf_counter()
        CachedTexts(model.text, captions)
        return len(captions) / (time.perf_counter() - start)


def noise(side: int, count: int) -> ImageTextBatch:
    """Random images, and random captions as long as they may be."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(1, 49_000, (count, LENGTH), generator=generator)
    tokens[:, -1] = 49_407
    return ImageTextBatch(images, tokens, *[torch.eye(count, dtype=torch.bool)] * 2)


def b16_case() -> Case:
    """PE-Core-B16 beside open_clip's configuration of it, AdamW both."""
    side = find_model(B16).vision.image_size

    def theirs() -> Step:
        import open_clip

        return open_clip_step(open_clip.create_model(OPEN_CLIP_B16).train(), None, LENGTH)

    makers = {
        "ours": lambda: our_step(our_model(B16, None), OptimizerConfig(name="adamw", lr=1e-4)),
        "open_clip": theirs,
    }
    return Case(f"PE-Core-B16, {side} px", makers, [noise(side, B16_BATCH)], alternate=False)  # each takes 10 GB
