"""`pe track`: follow objects through a video."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.dense import options
from perception_encoder.cli.options import QUERY, VIDEO, argument, flag, option, out_option
from perception_encoder.cli.progress import track as show_progress
from perception_encoder.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from perception_encoder.dense_prediction.tracking.video_tracking import LayerOf

DIRECTORY_RATE = 24.0
"""Frames a second of the video that is written for a directory of frames, as DAVIS's videos have."""
BOX = "Object in a box of the first frame: LEFT,TOP,RIGHT,BOTTOM in pixels or from 0 to 1; repeat for more."


def track(
    video: Annotated[Path, argument("VIDEO", "A video, or a directory of its frames.")],
    out: Annotated[Path, out_option("Directory for masks, overlay and boxes.", "DIR")],
    mask: Annotated[Path | None, option("PNG of the first frame's objects, numbered.", "FILE", QUERY)] = None,
    box: Annotated[list[str] | None, option(BOX, "BOX", QUERY)] = None,
    point: Annotated[list[str] | None, option("Object at X,Y of the first frame; repeat.", "X,Y", QUERY)] = None,
    model: Annotated[str | None, shared.model_option("see `pe models use`", "timm:NAME; hf:NAME")] = None,
    layer: options.Layer = -1,
    short_side: Annotated[
        int, option("Pixels of the frames' short side for the encoder.", panel=VIDEO, least=16)
    ] = 480,
    overlay: Annotated[bool, flag("--overlay/--no-overlay", "Also write the video with its objects.")] = True,
    json: shared.Json = False,
) -> None:
    """Follow objects through a video.

    They are given in its first frame by a mask, boxes or points. Nothing is trained: patches of a frame get the labels
    of the patches that they resemble in the first and the last seven frames. Writes OUT/NAME/00000.png and so on
    (objects' numbers, in DAVIS's layout), OUT/NAME.mp4 and OUT/NAME.json (boxes and areas). Memory does not grow with
    the video's length.

    Examples:

        pe track clip.mp4 --box 120,80,260,300 -o tracked
        pe track clip.mp4 --point 0.4,0.5 --point 0.8,0.5 -o tracked
        pe track DAVIS/JPEGImages/480p/dog --mask DAVIS/Annotations/480p/dog/00000.png -o results
        pe track clip.mp4 --mask first.png -m PE-Spatial-L14-448 -o tracked
    """
    from perception_encoder.dense_prediction.tracking.tracking_output import check_tracking_output, write_tracking
    from perception_encoder.dense_prediction.tracking.video_tracking import track_objects

    if bool(mask) == bool(box or point):
        raise ConfigError("say what to follow: --mask FILE, or --box or --point (as often as there are objects)")
    check_tracking_output(out, video.stem)
    names, rate, frames = open_frames(video)
    first = next(frames, None)
    if first is None:
        raise DataError(f"{video} has no frames")
    model = model or default_model.default_model("spatial")
    chosen = options.load_layer(model, layer)
    labels = read_mask(mask) if mask else label_positions(first, chosen, short_side, box or [], point or [])
    tracked = track_objects(chain([first], frames), labels, chosen, short_side)
    about = {"video": video.name, "model": chosen.encoder.name, "layer": chosen.layer}
    total = None if names is None else len(names)
    described = write_tracking(show_progress(tracked, "tracking", total), out, video.stem, rate, about, overlay, names)
    default_model.print_demo(model)
    if json:
        output.print_json(described)
        return
    count, last = len(set(labels[labels > 0].tolist())), described["frames"][-1]
    lost = count - len(last["objects"])
    ended = f"; {lost} not in the last one" if lost else ""
    output.print_line(
        f"{count} object{'s' * (count > 1)} in {len(described['frames'])} frames{ended}: {out / video.stem}"
    )


def open_frames(video: Path) -> tuple[list[str] | None, float, Iterator[Image.Image]]:
    """Return the names of frames in a directory (None for a video), frames a second, and the frames."""
    from perception_encoder.preprocess.image import open_image
    from perception_encoder.preprocess.media_types import IMAGE_SUFFIXES
    from perception_encoder.preprocess.video import frame_rate, sample_frames

    if not video.is_dir():
        return None, frame_rate(video), (frame.image for frame in sample_frames(video, every=0))
    files = sorted(path for path in video.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return [file.stem for file in files], DIRECTORY_RATE, (open_image(file).convert("RGB") for file in files)


def read_mask(path: Path) -> np.ndarray:
    """Read the numbers of a mask's objects, 0 elsewhere; DataError for a mask without one."""
    import numpy as np

    from perception_encoder.datasets.masked_videos import VOID, read_object_mask

    pixels = read_object_mask(path, str(path))
    labels = np.where(pixels == VOID, 0, pixels).astype(np.int64)
    if not labels.any():
        raise DataError(f"{path} is empty: no pixel has an object's number, 1 to 254")
    return labels


def label_positions(
    first: Image.Image, model: LayerOf, short_side: int, boxes: list[str], points: list[str]
) -> np.ndarray:
    """Number the objects in boxes, then those at points, from 1; a later one lies on top."""
    import numpy as np

    from perception_encoder.dense_prediction.regions import region_in_box, region_like, to_mask

    features = model.maps([first], short_side)[0]
    labels = np.zeros((first.height, first.width), np.int64)
    for number, text in enumerate([*boxes, *points], start=1):
        if number <= len(boxes):
            left, top, right, bottom = options.read_position(text, "--box", 4, first.size)
            mask = to_mask(region_in_box(features, (left, top, right, bottom)), first.size)
        else:
            x, y = options.read_position(text, "--point", 2, first.size)
            mask = to_mask(region_like(features, (x, y)), first.size)
        if not mask.any():
            raise DataError(f"no object was found at {text}; draw its mask, or choose another position")
        labels[mask] = number
    return labels
