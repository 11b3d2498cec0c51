"""Tracking of objects by likeness of patches (section 3): J, F and J&F as DAVIS defines them.

The masks of the first frame are carried through a video (dense_prediction/label_propagation.py) and compared with
the true ones at the masks' own size. As in DAVIS the first and the last frame are not scored; an object's J is the mean
over frames, a set's J the mean over the objects of all videos, and J&F the mean of J and F. A video with all its
objects is one block of the intervals; of few videos they are Student's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from perception_encoder.datasets.masked_videos import VOID, MaskedVideo
from perception_encoder.dense_prediction.label_propagation import PropagationConfig, propagate
from perception_encoder.errors import DataError, InputError, ModelError
from perception_encoder.evaluation.dense.features import check_layer, encode_patches, patch_multiple
from perception_encoder.evaluation.dense.region_and_boundary import boundary_accuracy, region_similarity
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.estimate import FEW_BLOCKS, check_scipy
from perception_encoder.evaluation.statistics.scores import ItemScores, measure
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.progress import Track, untracked

Masks = Sequence[UInt8[np.ndarray, "H W"] | None]
"""A video's true masks: 0 background, 255 not scored, all else objects; None for a frame without one."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """How videos are shown and followed."""

    short_side: int = 480
    """Pixels of the frames' short side, brought to a multiple of the patch; the long side keeps the aspect ratio."""
    propagation: PropagationConfig = field(default_factory=PropagationConfig)


def measure_tracking(
    encoder: LayerEncoder,
    layer: int,
    videos: Sequence[MaskedVideo],
    config: TrackingConfig | None = None,
    track: Track = untracked,
) -> tuple[tuple[Measurement, ...], tuple[InputError, ...]]:
    """Measure one layer; one video is in memory at a time.

    A video with a frame or mask that cannot be decoded, or whose masks will not do, is left out, and its error
    returned. Raises DataError where no video is left, ConfigError for a layer that does not exist, and ModelError for
    features that are not finite.
    """
    config = config or TrackingConfig()
    if 1 < len(videos) < FEW_BLOCKS:
        check_scipy()
    check_layer(encoder, layer)
    scores: dict[str, VideoScores] = {}
    failures: list[InputError] = []
    for video in track(videos, f"tracking at layer {layer}", len(videos)):
        try:
            frames, masks = video.read_frames(), read_scored(video)
        except InputError as error:
            failures.append(error)
            continue
        size = frame_size(frames[0].size, config.short_side, encoder.patch_size)
        features = encode_patches(encoder, [layer], frames, size)[layer]
        scores[video.name] = score_video(video.name, features, masks, config.propagation)
    if not scores:
        raise DataError(f"no video can be measured; the first: {failures[0]}" if failures else "there are no videos")
    found = gather(scores)
    settings = {"layer": str(layer), "short side": str(config.short_side)}
    metrics = tuple(measure(each) for each in found)
    return (Measurement("tracking", "label propagation", "", "", 0, metrics, settings, found),), tuple(failures)


def frame_size(size: tuple[int, int], short_side: int, patch: int) -> tuple[int, int]:
    """Height and width at which frames of `size` (width, height) are encoded."""
    scale = short_side / min(size)
    return patch_multiple(size[1] * scale, patch), patch_multiple(size[0] * scale, patch)


@dataclass(frozen=True)
class VideoScores:
    """What the objects of a video got, in ascending order of their numbers."""

    region: Float[np.ndarray, " K"]
    """J."""
    boundary: Float[np.ndarray, " K"]
    """F."""


def score_video(
    name: str, features: Float[np.ndarray, "F h w D"], masks: Masks, config: PropagationConfig | None = None
) -> VideoScores:
    """Follow the objects of the first mask by a layer's features, and score them.

    ModelError where features are not finite; DataError where there are not as many as masks, and InputError where there
    is no object, or nothing between the first and the last frame to score.
    """
    features = np.array(features, dtype=np.float32)
    if not np.isfinite(features).all():
        raise ModelError(f"{name}: its features hold NaN or infinity; try float32")
    if len(features) != len(masks):
        raise DataError(f"{name}: {len(masks)} masks for the features of {len(features)} frames")
    objects, first = shown_objects(name, masks), masks[0]
    assert first is not None
    labels = np.zeros(first.shape, dtype=np.int64)
    for place, number in enumerate(objects, start=1):
        labels[first == number] = place
    followed = propagate(torch.from_numpy(features), torch.from_numpy(labels), config)
    return score_masks(name, followed.numpy(), masks, objects)


def score_masks(name: str, followed: Int[np.ndarray, "F H W"], masks: Masks, objects: Sequence[int]) -> VideoScores:
    """Score labels 1 to K, which stand for `objects`, against the true masks."""
    frames = scored_frames(name, masks)
    regions = np.zeros((len(frames), len(objects)))
    boundaries = np.zeros((len(frames), len(objects)))
    for row, index in enumerate(frames):
        truth = masks[index]
        assert truth is not None
        counts = truth != VOID
        for place, number in enumerate(objects):
            pair = (followed[index] == place + 1) & counts, truth == number
            regions[row, place], boundaries[row, place] = region_similarity(*pair), boundary_accuracy(*pair)
    return VideoScores(regions.mean(axis=0), boundaries.mean(axis=0))


def shown_objects(name: str, masks: Masks) -> list[int]:
    """The numbers of the objects in the first mask, ascending; InputError where there is none."""
    objects = [] if masks[0] is None else [int(n) for n in np.unique(masks[0]) if n not in (0, VOID)]
    if not objects:
        raise InputError(name, "the mask of the first frame shows no object, so there is none to follow")
    return objects


def scored_frames(name: str, masks: Masks) -> list[int]:
    """The frames with a mask but the first and the last, of two the second; InputError where there is none."""
    last = len(masks) - 1 if len(masks) > 2 else 2
    frames = [index for index in range(1, last) if masks[index] is not None]
    if not frames:
        raise InputError(name, "no frame after the first has a mask that is scored")
    return frames


def read_scored(video: MaskedVideo) -> Masks:
    """A video's masks; InputError where they cannot be decoded, or leave nothing to follow or to score."""
    masks = video.read_masks()
    shown_objects(video.name, masks)
    scored_frames(video.name, masks)
    return masks


def gather(scores: Mapping[str, VideoScores]) -> tuple[ItemScores, ...]:
    """A set's `J&F`, `J` and `F` from its videos' scores: an entry for each object, and videos as items."""
    found = list(scores.values())
    owners = np.repeat(np.arange(len(found)), [len(each.region) for each in found])
    region = np.concatenate([each.region for each in found])
    boundary = np.concatenate([each.boundary for each in found])
    figures = {"J&F": (region + boundary) / 2, "J": region, "F": boundary}
    return tuple(ItemScores.of(name, values, list(scores), owners=owners) for name, values in figures.items())
