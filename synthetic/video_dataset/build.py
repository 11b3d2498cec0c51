"""Build a released dataset of rendered videos in the PE Video Dataset's layout, the same bytes for the same seed.

    OUT/train/000000.tar …, OUT/test/…    KEY.mp4, KEY.txt (caption) and KEY.json: captions, category, score
    OUT/extended/…                        keywords and a description only, as in the published dataset
    OUT/README.md                         the data card
    OUT/ATTRIBUTION.txt                   authors and licences of the objects

Objects of `test` are in no other split. Refined captions are of the simulated annotator, and labelled so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder._version import __version__
from perception_encoder.conversation.assistant import Assistant
from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.statistics.scores import ItemScores, estimate
from perception_encoder.files import replacing_new, write_text
from perception_encoder.preprocess.conversation import CAPTION_PROMPT, Sampling, ask
from perception_encoder.preprocess.video import read_frames
from perception_encoder.progress import Track, untracked
from perception_encoder.video_dataset.dataset import ALL, DatasetStatistics, describe_dataset
from perception_encoder.video_dataset.tables import OutputVideo, write_tars
from synthetic.scenes.objects.models import ObjectLibrary
from synthetic.scenes.rendering.motion import FRAME_RATE
from synthetic.scenes.samples.production import make_samples
from synthetic.scenes.samples.sample import SceneSample, ScenesConfig
from synthetic.video_dataset.caption_accuracy import KINDS, SHARES, score_captions
from synthetic.video_dataset.simulation import SimulatedAnnotator, simulate_caption
from synthetic.video_dataset.truth import SceneTruth

CLOSE = 0.25
"""Share of the frame that an object's largest box takes in a close-up."""
_CAPTION_FRAMES, _BATCH = 4, 8


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Settings of a released dataset."""

    count: int = 2000
    """Videos of all splits together."""
    seed: int = 0
    side: int = 128
    """Side of the frames, in pixels; even."""
    frames: int = 24
    """Frames of a video, 8 a second."""
    test: float = 0.15
    """Share of the videos in `test`."""
    extended: float = 0.15
    """Share in `extended`."""

    def __post_init__(self) -> None:
        if self.count < 10:
            raise ConfigError(f"count is {self.count}; it must be at least 10, for three splits")
        if min(self.test, self.extended) <= 0 or self.test + self.extended >= 1:
            raise ConfigError(f"the shares {self.test:g} and {self.extended:g} leave no videos for one of three splits")

    @property
    def splits(self) -> dict[str, int]:
        """The number of videos of each split."""
        test, extended = max(1, round(self.count * self.test)), max(1, round(self.count * self.extended))
        return {"train": self.count - test - extended, "extended": extended, "test": test}


def build_dataset(
    library: ObjectLibrary,
    out: Path,
    config: BuildConfig,
    captioner: Assistant | None = None,
    jobs: int | None = None,
    track: Track = untracked,
) -> DatasetStatistics:
    """Render, caption, refine and write a dataset; `captioner`: without one, the model's captions are simulated too.

    Raises OutputError if `out` is not new or empty or in use, and what `make_samples` raises.
    """
    authors: set[str] = set()
    classes = sorted({info.class_name for info in library.info.values()})
    maker = _VideoMaker(classes, config, captioner)

    def videos() -> Iterator[OutputVideo]:
        rendered = _render(library, config, jobs)
        while batch := list(islice(rendered, _BATCH)):
            for _, sample in batch:
                authors.update(sample.metadata["attribution"])
            yield from maker.videos(batch)

    with replacing_new(out) as directory:
        write_tars(directory, track(videos(), "building", config.count))
        statistics = describe_dataset(read_videos_of(directory))
        write_text(directory / "ATTRIBUTION.txt", "".join(f"{line}\n" for line in sorted(authors)))
        card = data_card(config, statistics, maker.captions_by, maker.accuracy(), len(library.info), len(classes))
        write_text(directory / "README.md", card)
    return statistics


class _VideoMaker:
    """Makes the videos of a dataset, each from its seed and number alone."""

    def __init__(self, classes: Sequence[str], config: BuildConfig, captioner: Assistant | None) -> None:
        self.classes, self.config, self.captioner = classes, config, captioner
        self.annotator = SimulatedAnnotator(classes)
        self.captions_by = captioner.name if captioner else "simulated"
        self._written: dict[str, tuple[str, SceneTruth]] = {}

    def videos(self, batch: Sequence[tuple[str, SceneSample]]) -> Iterator[OutputVideo]:
        """Make videos of samples, each with its split; those of `extended` have no captions."""
        captions = iter(self._captions([sample for split, sample in batch if split != "extended"]))
        for split, sample in batch:
            mp4 = dict(sample.files)["mp4"]
            fields = common_fields(sample.metadata, self.config)
            if split != "extended":
                caption, truth = next(captions), SceneTruth.of(sample.metadata)
                self._written[sample.key] = caption, truth
                refined = self.annotator.refine(caption, truth).caption
                fields |= {"model_caption": caption, "model_caption_by": self.captions_by, "description": None}
                fields |= {"human_caption": "", "refined_caption": refined, "refined_by": "simulated"}
            yield OutputVideo(sample.key, "mp4", partial(bytes, mp4), fields, split)

    def accuracy(self) -> list[ItemScores]:
        """Return precision and recall of all model captions so far."""
        captions = {key: caption for key, (caption, _) in self._written.items()}
        return score_captions(captions, {key: truth for key, (_, truth) in self._written.items()}, self.classes)

    def _captions(self, samples: Sequence[SceneSample]) -> list[str]:
        if self.captioner is None:
            seeds = ([self.config.seed, *sample.key.encode()] for sample in samples)
            return [
                simulate_caption(SceneTruth.of(sample.metadata), self.classes, np.random.default_rng(seed))
                for sample, seed in zip(samples, seeds, strict=True)
            ]
        videos = [read_frames(dict(sample.files)["mp4"], sample.key, _CAPTION_FRAMES) for sample in samples]
        replies = self.captioner.generate([ask(CAPTION_PROMPT, [video]) for video in videos], Sampling(max_tokens=64))
        return [reply.text.strip() for reply in replies]


def common_fields(metadata: dict[str, Any], config: BuildConfig) -> dict[str, Any]:
    """Return the published fields of a rendered video without captions, and its score and events."""
    category = "Close-up Shots" if largest_box(metadata) >= CLOSE else "Object Interactions"
    actions = {event["action"] for event in metadata["events"]}
    return {
        "category": category.lower().replace(" ", "_").replace("-", "_"),
        "category_name": category,
        "category_by": "rule",
        "video_duration_in_s": metadata["duration"],
        "fps": float(FRAME_RATE),
        "num_frames": config.frames,
        "height": config.side,
        "width": config.side,
        "keywords": metadata["keywords"],
        "description": f"A rendered scene with {', '.join(sorted({item['kind'] for item in metadata['objects']}))}.",
        "has_face": False,
        "interest_score": min(5, len(metadata["events"]) + (len(actions) > 1)),
        "interest_score_by": "rule",
        "events": metadata["events"],
        "objects": [{name: item[name] for name in ("id", "kind", "colour")} for item in metadata["objects"]],
    }


def largest_box(metadata: dict[str, Any]) -> float:
    """Return the largest share of a frame that an object's box takes in any frame."""
    boxes = [box for track in metadata["tracks"] for box in track["boxes"] if box is not None]
    area = metadata["width"] * metadata["height"]
    return max(((right - left) * (bottom - top) / area for left, top, right, bottom in boxes), default=0.0)


def data_card(
    config: BuildConfig,
    statistics: DatasetStatistics,
    captions_by: str,
    accuracy: Sequence[ItemScores],
    models: int,
    classes: int,
) -> str:
    """Return the README of a dataset; `accuracy`: of `score_captions`; `models`, `classes`: how many there are."""
    template = (files("synthetic.video_dataset") / "data_card.md").read_text(encoding="utf-8")
    rows = [
        f"| {split} | {table.videos:,} | {table.refined:,} | {table.hours:.2f} | {table.model_words.mean:.1f} | "
        f"{table.refined_words.mean:.1f} |".replace("nan", "–")
        for split, table in statistics.splits.items()
    ]
    categories = [f"| {row.category} | {row.videos:,} | {row.words:.1f} |" for row in statistics.categories[ALL]]
    shares = {score.metric: f"{100 * estimate([score]).value:.1f} %" for score in accuracy}
    accuracies = [f"| {kind} | {' | '.join(shares.get(f'{kind} {s}', '–') for s in SHARES)} |" for kind in KINDS]
    values = {
        "ACCURACY": "\n".join(accuracies),
        "SPLITS": "\n".join(rows),
        "CATEGORIES": "\n".join(categories),
        "COMMAND": f"python -m synthetic.video_dataset -o OUT --count {config.count} --seed {config.seed} "
        f"--size {config.side} --frames {config.frames}"
        + ("" if captions_by == "simulated" else f" --captioner {captions_by}"),
        "CAPTIONER": "simulated from the scene's truth, with mistakes"
        if captions_by == "simulated"
        else f"by the model `{captions_by}`",
        "MODELS": f"{models:,}",
        "CLASSES": f"{classes:,}",
        "VERSION": __version__,
    }
    for name, value in values.items():
        template = template.replace(f"${name}$", value)
    return template


def _render(library: ObjectLibrary, config: BuildConfig, jobs: int | None) -> Iterator[tuple[str, SceneSample]]:
    """Yield each split's videos; `extended` has the same objects as `train`."""
    counts = config.splits
    shared = ScenesConfig(side=config.side, frames=config.frames, seed=config.seed, videos=True)
    train = replace(shared, count=counts["train"] + counts["extended"], split="train")
    for number, sample in enumerate(make_samples(library, train, jobs)):
        yield "train" if number < counts["train"] else "extended", sample
    test = replace(shared, count=counts["test"], split="test")
    for sample in make_samples(library, test, jobs):
        yield "test", sample
