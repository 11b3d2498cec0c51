"""What layers know of places: tracking without training, depth, segmentation and detection by heads (section 3).

The protocols and heads are those of evaluation/; here they are given features that were extracted once. Pictures are
encoded at the encoder's own size, frames of videos with their aspect ratio kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from perception_encoder.data.masked_videos import MaskedVideo
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.layer_task import LayerFeatures, LayerPictures, LayerScore
from perception_encoder.evaluation.protocol import LayerEncoder
from perception_encoder.evaluation.tracking import TrackingConfig, VideoScores, frame_size, gather, score_video
from perception_encoder.layer_analysis.labelled_tasks import content_digest
from perception_encoder.preprocess.image import open_image

DENSE = "tokens"
"""What `pe embed --pool` takes for maps."""


class TrackingTask:
    """Whether a layer's patches find themselves again in later frames."""

    name = "tracking"

    def __init__(self, videos: Sequence[MaskedVideo], config: TrackingConfig | None = None) -> None:
        """`config`: by default frames of 240 pixels, a seventh of the cost of DAVIS's 480."""
        self.videos, self.config = tuple(videos), config or TrackingConfig(short_side=240)
        self._failures: dict[str, InputError] = {}

    @property
    def failures(self) -> Sequence[InputError]:
        """Masks that cannot be decoded; their videos are left out."""
        return tuple(self._failures.values())

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
        """J&F, J and F over the videos whose frames and masks can all be decoded."""
        scores: dict[str, VideoScores] = {}
        for video, found in zip(self.videos, features, strict=True):
            if found.failures:
                continue
            try:
                masks = video.read_masks()
            except InputError as error:
                self._failures[error.source] = error
                continue
            scores[video.name] = score_video(video.name, found.patches, masks, self.config.propagation)
        if not scores:
            raise DataError("tracking: no video can be decoded whole")
        return tuple(LayerScore.of(score, DENSE) for score in gather(scores))


def check_rows(name: str, features: Sequence[LayerFeatures]) -> None:
    """Raise DataError where none of a set's pictures could be decoded."""
    for found in features:
        if not len(found.rows):
            raise DataError(f"{name}: no picture can be decoded; the first: {found.failures[0]}")


def digest_of(*parts: object) -> str:
    """SHA-256 of how things are written, the first 20 digits; large arrays are no such things."""
    assert not any(isinstance(part, np.ndarray) for part in parts)
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()[:20]
