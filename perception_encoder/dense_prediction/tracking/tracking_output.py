"""Write a tracked video: masks in DAVIS's layout, the video with its objects drawn in, and their boxes as JSON.

OUT/NAME/00000.png …   one mask a frame, whose pixels are the objects' numbers: DAVIS's tools score this directory
OUT/NAME.mp4           the objects drawn over the frames
OUT/NAME.json          of each frame its objects: box (left, top, width, height in pixels, as COCO) and area
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from perception_encoder.dense_prediction.overlay import draw_objects, mask_png
from perception_encoder.errors import OutputError
from perception_encoder.files import write_json, writing
from perception_encoder.preprocess.video_writing import AddFrame, write_video

Tracked = tuple[Image.Image, Int[np.ndarray, "H W"]]
"""A frame and its labels."""


def check_tracking_output(directory: Path, name: str) -> None:
    """Raise OutputError if masks of a video of this name are there already."""
    if any((directory / name).glob("*.png")):
        raise OutputError(f"{directory / name} has masks already; choose another directory")


def write_tracking(
    tracked: Iterable[Tracked],
    directory: Path,
    name: str,
    rate: float,
    about: Mapping[str, Any],
    overlay: bool = True,
    frame_names: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Write frame after frame; return what the JSON holds: `about`, and the frames' objects.

    `rate`: frames a second of the overlay. `frame_names`: the masks' names, by default 00000, 00001 and so on. Raises
    OutputError, and what the frames do.
    """
    check_tracking_output(directory, name)
    frames: list[dict[str, Any]] = []
    names = iter(frame_names) if frame_names is not None else map("{:05d}".format, count())
    masks = directory / name
    with writing(masks), ExitStack() as stack:
        masks.mkdir(parents=True, exist_ok=True)
        add: AddFrame | None = None
        for frame, labels in tracked:
            mask_name = next(names)
            (masks / f"{mask_name}.png").write_bytes(mask_png(labels))
            frames.append({"name": mask_name, "objects": describe_objects(labels)})
            if overlay:
                add = add or stack.enter_context(write_video(directory / f"{name}.mp4", frame.size, rate))
                add(draw_objects(frame, labels))
    value = {**about, "frames": frames}
    write_json(directory / f"{name}.json", value, indent=None)
    return value


def describe_objects(labels: Int[np.ndarray, "H W"]) -> list[dict[str, Any]]:
    """Return the number, box (left, top, width, height, in pixels) and area of each object that is in a frame."""
    objects = []
    for number in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == number)
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        objects.append({"id": int(number), "bbox": box, "area": len(rows)})
    return objects
