"""Track objects through videos by patch similarity alone (section 3), without training.

Each patch is compared with the patches near its position in the first frame and the frames just before. The most
similar ones vote, and the patch takes their labels, weighted by a softmax of the cosines. This is DINO's protocol for
DAVIS: 7 frames, 5 patches at most 12 away, temperature 0.1. But a patch of the first frame has the shares of its
pixels as labels, not the label of one pixel, which is fairer to coarse grids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice, product, tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from perception_encoder.datasets.masked_videos import VOID, frame_order, read_object_mask
from perception_encoder.dense_prediction.predictions import TrackedFrame, mask_png
from perception_encoder.dense_prediction.segmentation import label_regions, to_fractions
from perception_encoder.errors import ConfigError, DataError, InputError, OutputError
from perception_encoder.files import write_bytes, write_json
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import load_layers
from perception_encoder.models.defaults import default_model
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.source import IMAGE_SUFFIXES
from perception_encoder.preprocess.video import frame_rate, sample_frames
from perception_encoder.preprocess.video_file import AddFrame, write_video
from perception_encoder.progress import Track, untracked
from perception_encoder.records import Checked, Count, Positive

_ROUNDING = 1e-4  # share of a map's largest value: what differs by less is one value
TILE = 16  # patches along the side of a tile, which is compared at a time


@dataclass(frozen=True, kw_only=True)
class PropagationConfig(Checked):
    """Which patches a patch is compared with."""

    frames: Count = 7
    """Previous frames, in addition to the first."""
    nearest: Count = 5
    """Number of most similar patches that vote, over all these frames."""
    reach: Count = 12
    """Maximum movement of a patch, in patches along each axis."""
    temperature: Positive = 0.1
    """Temperature of the softmax over cosines."""


def propagate(
    features: Float[Tensor, "F h w D"], first: Int[Tensor, "H W"], config: PropagationConfig | None = None
) -> Int[Tensor, "F H W"]:
    """Return the labels of every frame (int64), propagated from the first: 0 (background) to K - 1."""
    propagator = LabelPropagator(features[0], first, config)
    return torch.stack([first, *(propagator.step(frame) for frame in features[1:])])


class LabelPropagator:
    """Propagates labels frame by frame; keeps the first frame and the last `config.frames` in memory."""

    @torch.inference_mode()
    def __init__(
        self, features: Float[Tensor, "h w D"], labels: Int[Tensor, "H W"], config: PropagationConfig | None = None
    ) -> None:
        """`features`, `labels`: of the first frame; labels are 0 (background) to K - 1."""
        self.config, self.size = config or PropagationConfig(), (labels.shape[0], labels.shape[1])
        classes = F.one_hot(labels, int(labels.max()) + 1).permute(2, 0, 1).float()  # (K, H, W)
        shares = F.adaptive_avg_pool2d(classes, (features.shape[0], features.shape[1])).permute(1, 2, 0)  # (h, w, K)
        self.first = F.normalize(features.float(), dim=-1), shares
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.config.frames)

    @torch.inference_mode()
    def step(self, features: Float[Tensor, "h w D"]) -> Int[Tensor, "H W"]:
        unit = F.normalize(features.float(), dim=-1)
        context, labels = (torch.stack(parts) for parts in zip(self.first, *self.recent, strict=True))
        soft = _vote(unit, context, labels, self.config)
        self.recent.append((unit, soft))
        return _to_pixels(soft, *self.size)


def _vote(unit: Tensor, context: Tensor, labels: Tensor, config: PropagationConfig) -> Tensor:
    """Return soft labels (h, w, K) of a frame's unit features (h, w, D) from other frames' features and labels."""
    h, w, _ = unit.shape
    voted = labels.new_empty(h, w, labels.shape[-1])
    for top, left in product(range(0, h, TILE), range(0, w, TILE)):
        rows, columns = range(top, min(h, top + TILE)), range(left, min(w, left + TILE))
        voted[top : rows.stop, left : columns.stop] = _vote_tile(unit, context, labels, rows, columns, config)
    return voted


def _vote_tile(
    unit: Tensor, context: Tensor, labels: Tensor, rows: range, columns: range, config: PropagationConfig
) -> Tensor:
    """Return the soft labels of a tile, comparing it only with patches within reach."""
    around = [
        range(max(0, side.start - config.reach), min(length, side.stop + config.reach))
        for side, length in zip((rows, columns), unit.shape[:2], strict=True)
    ]
    near = [
        (torch.tensor(side)[:, None] - torch.tensor(other)).abs() <= config.reach
        for side, other in zip((rows, columns), around, strict=True)
    ]
    window = tuple(slice(side.start, side.stop) for side in around)
    candidates = context[:, *window].flatten(1, 2)  # (C, M, D)
    votes = labels[:, *window].flatten(0, 2)  # (C·M, K)
    queries = unit[rows.start : rows.stop, columns.start : columns.stop].flatten(0, 1)  # (N, D)
    far = ~(near[0][:, None, :, None] & near[1][:, None]).flatten(2).flatten(0, 1).to(unit.device)  # (N, M)
    cosines = torch.stack([(queries @ frame.T).masked_fill_(far, -torch.inf) for frame in candidates], dim=1).flatten(1)
    best, indices = cosines.topk(min(config.nearest, cosines.shape[1]), dim=1)
    weights = (best / config.temperature).softmax(dim=1)
    return torch.einsum("nk,nkc->nc", weights, votes[indices]).unflatten(0, (len(rows), len(columns)))


def _to_pixels(soft: Tensor, height: int, width: int) -> Tensor:
    """Return each pixel's most probable label (H, W), with each label's map stretched to 0–1, as in the protocol."""
    maps = F.interpolate(soft.permute(2, 0, 1)[None], (height, width), mode="bilinear")[0]  # (K, H, W)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    spread = high - low
    maps = torch.where(spread > _ROUNDING * high, (maps - low) / spread.clamp_min(1e-12), maps)
    best, label = maps[0], torch.zeros(height, width, dtype=torch.int64, device=maps.device)
    for number in range(1, len(maps)):  # argmax over the slowest axis takes ten times as long
        label = torch.where(maps[number] > best, number, label)
        best = torch.maximum(best, maps[number])
    return label


SHORT_SIDE = 480  # pixels of a frame's short side for the encoder
DIRECTORY_RATE = 24.0  # frames per second of the video written for a directory of frames, as in DAVIS


def frame_size(size: tuple[int, int], short_side: int, patch: int) -> tuple[int, int]:
    """Return the height and width at which frames of `size` (width, height) are encoded."""
    width, height = (max(1, round(side * short_side / min(size) / patch)) * patch for side in size)
    return height, width


def maps_at(
    model: LayerFeatures, images: Sequence[Image.Image], short_side: int = SHORT_SIDE
) -> Float[np.ndarray, "B h w D"]:
    """Return features of images of one size, float32, encoded at `short_side` pixels."""
    return model.maps(images, frame_size(images[0].size, short_side, model.patch_size))


def track_objects(
    frames: Iterable[Image.Image],
    first: Int[np.ndarray, "H W"],
    model: LayerFeatures,
    short_side: int = SHORT_SIDE,
    batch_size: int = 8,
) -> Iterator[tuple[Image.Image, Int[np.ndarray, "H W"]]]:
    """Yield each frame with its labels, encoding `batch_size` frames at a time.

    `first`: the labels of the first frame: 0 (background) and any numbers of objects. A lost object is found again if
    it resembles the first or the last frames. Raises InputError if the size of the frames changes, and DataError for a
    mask of another size or without objects, and for an empty video.
    """
    propagator, size, number = None, None, 0
    numbers = np.union1d([0], first)  # labels are carried as 0 to K
    frames = iter(frames)
    while batch := [frame.convert("RGB") for frame in islice(frames, batch_size)]:
        for row, frame in enumerate(batch):
            size = size or frame.size
            if frame.size != size:
                expected, found = (f"{width}x{height}" for width, height in (size, frame.size))
                raise InputError(f"frame {number + row}", f"has {found} pixels, the first frame {expected}")
        for frame, features in zip(batch, torch.from_numpy(maps_at(model, batch, short_side)), strict=True):
            if propagator is None:
                if first.shape != (frame.height, frame.width):
                    shape = f"{first.shape[1]}x{first.shape[0]}"
                    raise DataError(f"the mask has {shape} pixels, the first frame {frame.width}x{frame.height}")
                if not first.any():
                    raise DataError("the first mask is empty: no pixel has an object's number, 1 to 254")
                propagator = LabelPropagator(features, torch.from_numpy(np.searchsorted(numbers, first)))
                yield frame, first
            else:
                yield frame, numbers[propagator.step(features).numpy()]
        number += len(batch)
    if propagator is None:
        raise DataError("the video has no frames")


def track(
    video: str | Path,
    out: str | Path | None = None,
    *,
    points: Sequence[tuple[float, float]] = (),
    boxes: Sequence[tuple[float, float, float, float]] = (),
    mask: str | Path | Int[np.ndarray, "H W"] | None = None,
    model: str | Path | None = None,
    layer: int = -1,
    short_side: int = SHORT_SIDE,
    progress: Track = untracked,
) -> Iterator[TrackedFrame]:
    """Track objects through a video without training; yields each frame with its objects.

    With `out`, writes to this directory as the frames are taken: NAME/00000.png … (the objects' numbers, in DAVIS's
    layout), NAME.mp4 with the objects drawn, and at the end NAME.json (boxes and areas). Memory does not grow with the
    video's length.

    Args:
        video: A file, or a directory of frames.
        out: A directory.
        points: Objects of the first frame at x, y, in pixels or from 0 to 1, numbered after `boxes`.
        boxes: Objects of the first frame: left, top, right, bottom, in pixels or from 0 to 1.
        mask: Instead of both: the objects' numbers, 0 for background, in a PNG file or an array of the frame's size.
        model: By default the one chosen with `pe models use`, else builtin-spatial, a demo.
        layer: 0-based, or negative from the end.
        short_side: Pixels of a frame's short side for the encoder.

    Raises:
        ConfigError: Objects are missing, given in both ways, or outside the frame.
        DataError: The video or mask is empty, or no object is found at a position.
        InputError: The size of the frames changes.
        OutputError: `out` has masks of this video.

    Examples:
        >>> for frame in pe.track("clip.mp4", points=[(120, 80)]):
        ...     print(frame.name, frame.objects)
    """
    if not isinstance(video, str | Path):
        raise InputError("video", f"is of type {type(video).__name__}; give the path of a video or of frames")
    video, directory = Path(video), None if out is None else Path(out)
    if (mask is None) == (not points and not boxes):
        raise ConfigError("mark what to track: `mask` (--mask), or `points` and `boxes` (--point, --box)")
    if directory is not None and any((directory / video.stem).glob("*.png")):
        raise OutputError(f"{directory / video.stem} has masks already; choose another directory")
    names, total, rate, frames = open_frames(video)
    first = next(frames, None)
    if first is None:
        raise DataError(f"{video} has no frames")
    features = load_layers(model or default_model("spatial"), layer=layer)
    if mask is None:
        positions = [to_fractions(position, first.size) for position in (*boxes, *points)]
        labels = label_regions(maps_at(features, [first], short_side)[0], positions, first.size)
    elif isinstance(mask, str | Path):
        pixels = read_object_mask(Path(mask), str(mask))
        labels = np.where(pixels == VOID, 0, pixels).astype(np.int64)
        if not labels.any():
            raise DataError(f"{mask} is empty: no pixel has an object's number, 1 to 254")
    else:
        labels = mask.astype(np.int64)
    pairs = track_objects(chain([first], frames), labels, features, short_side)
    tracked = (
        TrackedFrame(name=name, image=frame, labels=found, time=time)
        for (frame, found), (name, time) in zip(pairs, names, strict=False)
    )
    shown = iter(progress(tracked, "tracking", total))
    if directory is None:
        return shown
    metadata = {"video": video.name, "model": features.name, "layer": features.layer}
    return write_tracking(shown, directory, video.stem, rate, metadata)


def open_frames(video: Path) -> tuple[Iterator[tuple[str, float | None]], int | None, float, Iterator[Image.Image]]:
    """Return the frames' names and times, their number, the frames per second, and the frames.

    Frames in a directory have no times, and those of a video are not counted (None).
    """
    if not video.is_dir():
        sampled, timed = tee(sample_frames(video, every=0))
        names = ((f"{number:05d}", frame.time) for number, frame in enumerate(timed))
        return names, None, frame_rate(video), (frame.image for frame in sampled)
    files = [path for path in video.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    files.sort(key=lambda path: frame_order(path.stem))
    stems = ((file.stem, None) for file in files)
    return stems, len(files), DIRECTORY_RATE, (open_image(file).convert("RGB") for file in files)


def write_tracking(
    tracked: Iterable[TrackedFrame], directory: Path, name: str, rate: float, metadata: Mapping[str, Any]
) -> Iterator[TrackedFrame]:
    """Yield the frames and write each one as it is taken: its mask and overlay, and finally the JSON."""
    frames: list[dict[str, Any]] = []
    with ExitStack() as stack:
        add: AddFrame | None = None
        for frame in tracked:
            write_bytes(directory / name / f"{frame.name}.png", mask_png(frame.labels))
            frames.append(frame.to_dict())
            add = add or stack.enter_context(write_video(directory / f"{name}.mp4", frame.image.size, rate))
            add(frame.draw())
            yield frame
    write_json(directory / f"{name}.json", {**metadata, "frames": frames}, indent=None)
