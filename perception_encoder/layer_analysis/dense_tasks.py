"""What layers know of places: tracking without training, depth, segmentation and detection by heads (section 3).

The protocols and heads are those of evaluation/; here they are given features that were extracted once. Pictures are
encoded at the encoder's own size, frames of videos with their aspect ratio kept. A picture whose target cannot be
decoded, or shows nothing that counts, is as one that cannot be decoded itself. Heads are smaller than for published
figures, for every layer pays for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

from PIL import Image

from perception_encoder.datasets.class_masks import ClassMasks, keep_trained
from perception_encoder.datasets.instances import InstanceSet
from perception_encoder.datasets.masked_videos import MaskedVideo, Stored
from perception_encoder.datasets.rgbd import DepthPictures
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.detection import DetectionConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.dense.depth import DepthProtocol, known_depths, score_depth, warn_of_range
from perception_encoder.evaluation.dense.detection import DetectionProtocol, score_detection
from perception_encoder.evaluation.dense.segmentation import SegmentationProtocol, known_labels, score_segmentation
from perception_encoder.evaluation.dense.tracking import (
    TrackingConfig,
    VideoScores,
    frame_size,
    gather,
    read_scored,
    score_video,
)
from perception_encoder.evaluation.layer_task import LayerFeatures, LayerPictures, LayerScore
from perception_encoder.layer_analysis.labelled_tasks import content_digest
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.preprocess.image import open_image

DENSE = "tokens"
"""What `pe embed --pool` takes for maps."""


SHORT_SIDE = 240
"""Pixels of the short side of videos' frames, where nothing else is asked for."""


class TrackingTask:
    """Whether a layer's patches find themselves again in later frames."""

    name = "tracking"

    def __init__(self, videos: Sequence[MaskedVideo], config: TrackingConfig | None = None) -> None:
        """`config`: by default frames of `SHORT_SIDE` pixels, a seventh of the cost of DAVIS's 480."""
        self.videos, self.config = tuple(videos), config or TrackingConfig(short_side=SHORT_SIDE)

    @property
    def failures(self) -> Sequence[InputError]:
        """Masks that cannot be decoded or will not do; their videos are left out."""
        return tuple(self._failures.values())

    @cached_property
    def _failures(self) -> dict[str, InputError]:
        """By video. Masks are decoded once for it, so that failures are known where scores are on disk already."""
        found: dict[str, InputError] = {}
        for video in self.videos:
            try:
                read_scored(video)
            except InputError as error:
                found[video.name] = error
        return found

    @cached_property
    def digest(self) -> str:
        """Of the masks and the settings."""
        masks = [mask for video in self.videos for mask in video.masks if mask is not None]
        names = [(video.name, [mask is not None for mask in video.masks]) for video in self.videos]
        return digest_of(self.config, names, content_digest(masks))

    def pictures(self, encoder: LayerEncoder) -> Sequence[LayerPictures]:
        """Each video's frames."""
        return [self._frames(video, encoder) for video in self.videos]

    def _frames(self, video: MaskedVideo, encoder: LayerEncoder) -> LayerPictures:
        keys = tuple(f"{video.name}/frame {number}" for number in range(len(video.frames)))
        try:
            shown = open_image(video.frames[0], keys[0]).size
            size = frame_size(shown, self.config.short_side, encoder.patch_size)
        except InputError:  # it is reported when it is encoded
            size = encoder.image_size
        return LayerPictures(
            name=video.name,
            keys=keys,
            open=lambda place: open_image(video.frames[place], keys[place]),
            digest=content_digest(video.frames),
            image_size=size,
        )

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """J&F, J and F over the videos whose frames can all be decoded, and whose masks will do."""
        scores: dict[str, VideoScores] = {}
        for video, found in zip(self.videos, features, strict=True):
            if not found.failures and video.name not in self._failures:
                masks = read_scored(video)
                scores[video.name] = score_video(video.name, found.patches, masks, self.config.propagation)
        if not scores:
            failures = [failure for found in features for failure in found.failures] or self.failures
            reason = f"; the first: {failures[0]}" if failures else ""
            raise DataError(f"{self.name}: no video can be measured{reason}")
        return LayerScore.all_of(gather(scores), DENSE)


class DepthTask:
    """Whether a head reads the depth of pixels off a layer."""

    failures: tuple[InputError, ...] = ()

    def __init__(
        self, train: DepthPictures, test: DepthPictures, protocol: DepthProtocol | None = None, name: str = "depth"
    ) -> None:
        self.name, self.train, self.test = name, train, test
        self.protocol = protocol or DepthProtocol(head=DepthConfig(channels=32))

    @cached_property
    def digest(self) -> str:
        """Of the depths and the settings."""
        parts = (self.train, self.test)
        return digest_of(self.protocol, self.test.blocks, [(p.per_metre, content_digest(p.depths)) for p in parts])

    @cached_property
    def _pictures(self) -> tuple[LayerPictures, LayerPictures]:
        depths = known_depths(self.train, self.test, self.protocol)
        made = fitted_and_measured(self.name, (self.train, depths[0]), (self.test, depths[1]))
        warn_of_range(*depths)
        return made

    def pictures(self, encoder: LayerEncoder) -> Sequence[LayerPictures]:
        """What the head is fitted on, and what it is measured on."""
        return self._pictures

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """RMSE first, or the relative error of aligned guesses."""
        fitted, measured = check_rows(self.name, features)
        scores = score_depth(
            fitted.patches,
            lambda place: self.train.depth(int(fitted.rows[place])),
            measured.patches,
            lambda place: self.test.depth(int(measured.rows[place])),
            [self.test.keys[row] for row in measured.rows],
            self.protocol,
            blocks=[self.test.blocks[row] for row in measured.rows],
        )
        return LayerScore.all_of(scores, DENSE)


class SegmentationTask:
    """Whether a linear head reads the class of pixels off a layer."""

    failures: tuple[InputError, ...] = ()

    def __init__(
        self,
        train: ClassMasks,
        test: ClassMasks,
        protocol: SegmentationProtocol | None = None,
        name: str = "segmentation",
    ) -> None:
        """Classes that no training picture shows are not scored."""
        self.name = name
        self.train, self.test = keep_trained(train, test)
        self.protocol = protocol or SegmentationProtocol()

    @cached_property
    def digest(self) -> str:
        """Of the masks, what they stand for, and the settings."""
        meanings = [(part.classes, part.numbers, content_digest(part.masks)) for part in (self.train, self.test)]
        return digest_of(self.protocol, meanings)

    @cached_property
    def _pictures(self) -> tuple[LayerPictures, LayerPictures]:
        sets = (self.train, known_labels(self.train)), (self.test, known_labels(self.test))
        return fitted_and_measured(self.name, *sets)

    def pictures(self, encoder: LayerEncoder) -> Sequence[LayerPictures]:
        """What the head is fitted on, and what it is measured on."""
        return self._pictures

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """mIoU first."""
        fitted, measured = check_rows(self.name, features)
        scores = score_segmentation(
            fitted.patches,
            lambda place: self.train.labels(int(fitted.rows[place])),
            measured.patches,
            lambda place: self.test.labels(int(measured.rows[place])),
            [self.test.keys[row] for row in measured.rows],
            len(self.train.classes),
            self.protocol,
        )
        return LayerScore.all_of(scores, DENSE)


class DetectionTask:
    """Whether a detector over a layer finds things."""

    failures: tuple[InputError, ...] = ()

    def __init__(
        self,
        train: InstanceSet,
        test: InstanceSet,
        protocol: DetectionProtocol | None = None,
        name: str = "detection",
    ) -> None:
        self.name, self.train, self.test = name, train, test
        fit = FitConfig(epochs=8, batch=8, weight_decay=0.05)
        head = DetectionConfig(channels=64, hidden=256, regions=128, fit=fit)
        self.protocol = protocol or DetectionProtocol(head=head)

    @cached_property
    def digest(self) -> str:
        """Of the annotations and the settings."""
        said = [(part.images, sorted(part.annotations.items()), part.categories) for part in (self.train, self.test)]
        return digest_of(self.protocol, said)

    @cached_property
    def _pictures(self) -> tuple[LayerPictures, LayerPictures]:
        return fitted_and_measured(self.name, (self.train, self.train.things), (self.test, self.test.things))

    def pictures(self, encoder: LayerEncoder) -> Sequence[LayerPictures]:
        """What the detector is fitted on, and what it is measured on."""
        return self._pictures

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """AP of boxes first, then that of masks where there are masks."""
        fitted, measured = check_rows(self.name, features)
        scores = score_detection(
            fitted.patches,
            (self.train, fitted.rows),
            measured.patches,
            (self.test, measured.rows),
            self.protocol,
        )
        return LayerScore.all_of(scores, DENSE)


class _Pictures(Protocol):
    """What the readers of pictures with targets give."""

    @property
    def keys(self) -> tuple[str, ...]: ...

    @property
    def pictures(self) -> tuple[Stored, ...]: ...

    def open(self, place: int) -> Image.Image: ...


def fitted_and_measured(
    name: str,
    train: tuple[_Pictures, Callable[[int], object]],
    test: tuple[_Pictures, Callable[[int], object]],
) -> tuple[LayerPictures, LayerPictures]:
    """Pictures, each set with what decodes the target at a place, as they are encoded."""
    return _with_targets(f"{name}, train", *train), _with_targets(f"{name}, test", *test)


def _with_targets(name: str, these: _Pictures, target: Callable[[int], object]) -> LayerPictures:
    """Targets are decoded once, to see whether that can be done."""
    bad: dict[int, InputError] = {}
    for place in range(len(these.keys)):
        try:
            target(place)
        except InputError as error:
            bad[place] = error

    def open(place: int) -> Image.Image:
        if place in bad:
            raise bad[place]
        return these.open(place)

    digest = content_digest(these.pictures) + (f", without {sorted(bad)}" if bad else "")
    return LayerPictures(name=name, keys=these.keys, open=open, digest=digest)


def check_rows(name: str, features: Sequence[LayerFeatures]) -> tuple[LayerFeatures, LayerFeatures]:
    """Features of the two sets; DataError where none of a set's pictures could be used."""
    for found in features:
        if not len(found.rows):
            raise DataError(f"{name}: no picture can be used; the first: {found.failures[0]}")
    fitted, measured = features
    return fitted, measured


def digest_of(*parts: object) -> str:
    """SHA-256 of how things are written, the first 20 digits."""
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()[:20]
