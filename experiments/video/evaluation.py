"""What finetuned models are evaluated on: clips that nothing was trained on, their last frames, and photographs."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from experiments.outcomes import EVERY, PHOTOS, HeldOut, average
from experiments.video.clips import Clip
from perception_encoder.datasets.captioned import CaptionedMedia
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.evaluation.classification.zero_shot import ZeroShotEvaluator
from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.evaluation.retrieval import RetrievalEvaluator
from perception_encoder.evaluation.statistics.scores import ItemScores, Score
from perception_encoder.files import replacing, writing
from perception_encoder.formats.media_directory import MediaSource
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.tokenizer import TruncationWarning
from perception_encoder.preprocess.video import read_frames
from perception_encoder.progress import Track, untracked
from synthetic.scenes.language.phrases import join_phrases
from synthetic.video_dataset.simulation import SimulatedAnnotator

ACTIONS = {
    "falls": "something falls from above",
    "rolls": "a ball rolls",
    "is pushed": "something is pushed across the floor",
    "tips over": "something tips over",
}
"""The actions as zero-shot classes."""
FRAMES = 8
TEXT_TO_VIDEO, VIDEO_TO_TEXT, VIDEO_OBJECTS, VIDEO_ACTIONS = (
    *("text to video R@5", "video to text R@5", "video objects", "video actions"),
)
TEXT_TO_IMAGE, IMAGE_TO_TEXT, IMAGE_OBJECTS = "text to image R@5", "image to text R@5", "image objects"
PHOTOGRAPHS = "photographs"
_RETRIEVED = ("text to item R@5", "item to text R@5")


@dataclass(frozen=True)
class ClipTasks:
    """The tasks of one set of clips."""

    clips: Sequence[Clip]
    classes: Sequence[str]
    """All classes of objects, of all sets."""
    frames: Path
    """Where the last frames are stored."""

    def run(self, encoder: Encoder, track: Track = untracked) -> list[ItemScores]:
        """Return a score for each task; descriptions are cut to the text tower's context."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            return self._run(encoder, track)

    def _run(self, encoder: Encoder, track: Track) -> list[ItemScores]:
        videos = [clip.path for clip in self.clips]
        images = [_last_frame(clip, self.frames) for clip in self.clips]
        tellers = [SimulatedAnnotator(self.classes).refine("", clip.truth).caption for clip in self.clips]
        named = [join_phrases([clip.truth.counted(name) for name in clip.truth.counts]) for clip in self.clips]
        source = Embeddings(encoder)
        return [
            *self._retrieval(source, videos, tellers, (TEXT_TO_VIDEO, VIDEO_TO_TEXT), track),
            self._objects(source, videos, VIDEO_OBJECTS, track),
            self._actions(source, track),
            *self._retrieval(source, images, named, (TEXT_TO_IMAGE, IMAGE_TO_TEXT), track),
            self._objects(source, images, IMAGE_OBJECTS, track),
        ]

    def _retrieval(
        self,
        source: Embeddings,
        media: Sequence[MediaSource],
        captions: Sequence[str],
        names: Sequence[str],
        track: Track,
    ) -> list[ItemScores]:
        keys = tuple(clip.key for clip in self.clips)
        data = CaptionedMedia(names[0], keys, tuple(media), tuple((caption,) for caption in captions))
        scores = list(RetrievalEvaluator(data, FRAMES).run(source, track))
        return [_score(scores, metric, name) for metric, name in zip(_RETRIEVED, names, strict=True)]

    def _objects(self, source: Embeddings, media: Sequence[MediaSource], name: str, track: Track) -> ItemScores:
        """Whether the nearest class is one that is there."""
        task = LabelledImages(
            name,
            tuple(clip.key for clip in self.clips),
            tuple(media),
            tuple(clip.key for clip in self.clips),
            choices=tuple(self.classes),
            accepted={clip.key: frozenset(clip.truth.colours) for clip in self.clips},
        )
        return _score(ZeroShotEvaluator(task, ["photo"], FRAMES).run(source, track), "top-1", name)

    def _actions(self, source: Embeddings, track: Track) -> ItemScores:
        """Which of `ACTIONS` is seen, in the clips that have just one."""
        labels = {clip: {action for _, action in clip.truth.events} for clip in self.clips}
        clips = [clip for clip, actions in labels.items() if len(actions) == 1]
        task = LabelledImages(
            VIDEO_ACTIONS,
            tuple(clip.key for clip in clips),
            tuple(clip.path for clip in clips),
            tuple(next(iter(labels[clip])) for clip in clips),
            choices=tuple(ACTIONS),
            names=ACTIONS,
        )
        return _score(
            ZeroShotEvaluator(task, ["name"], FRAMES).run(source, track), "mean class accuracy", VIDEO_ACTIONS
        )


class VideoEvaluation:
    """All sets: clips by name, and photographs."""

    def __init__(self, sets: dict[str, ClipTasks], photos: Path | None) -> None:
        """`photos`: labelled test photographs of the built-in model; every third is used."""
        self.sets = sets
        self.photos = HeldOut(photos) if photos else None
        if self.photos is not None:
            tasks = self.photos.sets[PHOTOS]
            some = {name: task.select(range(0, len(task.keys), EVERY)) for name, task in tasks.items()}
            self.photos.sets = {PHOTOS: some}

    @property
    def digest(self) -> str:
        """What tells the data from others: the clips, and whether photographs are evaluated."""
        keys = [f"{name}: {' '.join(clip.key for clip in tasks.clips)}" for name, tasks in self.sets.items()]
        return hashlib.sha256("\n".join([*keys, str(self.photos is not None)]).encode()).hexdigest()

    def run(self, encoder: Encoder, track: Track = untracked) -> dict[str, list[ItemScores]]:
        """Return the scores of each set."""
        scores = {name: tasks.run(encoder, track) for name, tasks in self.sets.items()}
        if self.photos is not None:
            scores[PHOTOGRAPHS] = [average(PHOTOGRAPHS, [self.photos.evaluate(encoder, track)[PHOTOS]])]
        return scores


def _score(scores: Iterable[Score], metric: str, name: str) -> ItemScores:
    (score,) = (item for score in scores for item in score.items if score.name == metric)
    assert isinstance(score, ItemScores)
    return ItemScores(**{**vars(score), "metric": name})


def _last_frame(clip: Clip, directory: Path) -> Path:
    """Store the last frame of a clip, unless it is there; return its file."""
    path = directory / f"{clip.key}.png"
    if not path.is_file():
        image: Image.Image = read_frames(clip.path, clip.key, FRAMES).images[-1]
        with writing(path), replacing(path) as temporary:
            image.save(temporary, "PNG")
    return path
