"""Read the words in images and moments of videos, with RapidOCR and the models that its package carries."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from perception_encoder.errors import DataError, InputError, MediaDecodeError, detached, needs_extra, one_line
from perception_encoder.formats.listing import Item, list_items
from perception_encoder.preprocess.budget import map_ahead
from perception_encoder.preprocess.fetch import is_url
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.media import Media, open_media, resolve
from perception_encoder.progress import Track, untracked

K = TypeVar("K")
LONGEST_SIDE = 2000
"""Longest side in pixels of an image in which words are looked for; a larger one is reduced."""
MIN_CONFIDENCE = 0.5
DETECTED_SIDE, DETECTED_LONGEST = 736, 1280
"""Short side to which a smaller image is enlarged to find lines: with 480, one in four is lost for half of the time.
Longest side to which others are reduced: with 2,000, large letters are lost, and it takes three times as long."""
_THREADS = 2  # one reads words, on all cores, while the other decodes
_LEAST_SIDE, _NARROWEST = 32, 8  # the detector needs it; it enlarges an image until the short side is long enough


@dataclass(frozen=True, kw_only=True)
class TextLine:
    """A line of text in an image."""

    text: str
    confidence: float
    """From 0 to 1: the mean over the line's letters."""
    box: tuple[float, ...]
    """x, y of four corners, clockwise from where the text begins, as shares of the image's width and height."""

    def to_dict(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        return asdict(self) | {"box": list(self.box)}


def read_words(media: object, *, min_confidence: float = MIN_CONFIDENCE) -> list[TextLine]:
    """Read the lines of text in an image, from top to bottom. Nothing is downloaded.

    Args:
        media: The path or URL of an image, a PIL image or an array (H, W, 3); or a moment of a video, "clip.mp4@12s".
        min_confidence: Lines below it are left out.

    Raises:
        InputError: The image cannot be decoded or read, or is a video.
        MissingExtraError: The extra `words` is not installed.

    Examples:
        >>> for line in pe.read_words("receipt.jpg"):
        ...     print(line.text, line.box)
    """
    if isinstance(media, str) and not is_url(media):
        media = Path(media)
    resolved = media if isinstance(media, Media) else resolve(media)
    if resolved.kind == "video" and (resolved.start is None or resolved.start != resolved.end):
        raise InputError(resolved.name, "is a video; name a moment of it, such as clip.mp4@12s")
    if isinstance(file := resolved.payload, (Path, bytes)) and resolved.kind == "image":
        opened: Image.Image | VideoFrames | str = open_image(file, resolved.name, reduce_to=_needed_side)
    else:
        opened = open_media(resolved)
    if isinstance(opened, str):
        raise InputError(resolved.name, "is a text, not an image")
    image = opened.images[0] if isinstance(opened, VideoFrames) else opened
    return WordReader.shared().read(image, resolved.name, min_confidence)


def _needed_side(width: int, height: int) -> int:
    return math.ceil(LONGEST_SIDE * min(width, height) / max(width, height))


def can_read_words() -> bool:
    """Return whether the extra `words` is installed."""
    return find_spec("rapidocr") is not None and any(map(find_spec, ("openvino", "onnxruntime")))


class WordReader:
    """Reads words on all cores, one image at a time; threads may share one."""

    def __init__(self) -> None:
        """Load the models; MissingExtraError without the extra `words`."""
        with needs_extra("words", "rapidocr"):
            import rapidocr
        engine = rapidocr.EngineType.OPENVINO if find_spec("openvino") else rapidocr.EngineType.ONNXRUNTIME
        models = Path(rapidocr.__file__).parent / "models"  # named, so that none is looked for on the network
        settings: dict[str, Any] = {"Global.log_level": "critical", "Global.max_side_len": LONGEST_SIDE}
        settings["Global.text_score"] = 0.0
        for part in ("Det", "Cls", "Rec"):
            (path,) = models.glob(f"*_{part.lower()}_*.onnx")
            settings |= {f"{part}.engine_type": engine, f"{part}.model_path": str(path)}
        self._ocr: Any = rapidocr.RapidOCR(params=settings)
        self._detector: Any = self._ocr._load_det_model()
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        self._lock = Lock()

    @staticmethod
    @cache
    def shared() -> WordReader:
        """Return the process's reader."""
        return WordReader()

    def read(self, image: Image.Image, name: str, min_confidence: float = MIN_CONFIDENCE) -> list[TextLine]:
        """Return the lines of an upright image; MediaDecodeError, with its name, if the reader fails."""
        if max(image.size) > LONGEST_SIDE:
            image = image.copy()
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX, reducing_gap=None)
        least = max(_LEAST_SIDE, max(image.size) // _NARROWEST)
        alpha = image.getchannel("A") if "A" in image.getbands() else None
        bright = alpha is None or np.sum((np.asarray(image.convert("L"), np.float32) - 128) * np.asarray(alpha)) >= 0
        behind = "black" if bright else "white"  # so that what is opaque, such as letters, can be read
        canvas = Image.new("RGB", (max(image.width, least), max(image.height, least)), behind)
        canvas.paste(image.convert("RGB"), mask=alpha)
        pixels = np.ascontiguousarray(np.asarray(canvas)[..., ::-1])  # (H, W, 3), blue first
        enlarged = min(canvas.size) < DETECTED_SIDE
        try:
            with self._lock:
                self._detector.limit_type = "min" if enlarged else "max"
                self._detector.limit_side_len = DETECTED_SIDE if enlarged else DETECTED_LONGEST
                found = self._ocr(pixels)
        except Exception as error:  # of the library and of two runtimes
            raise MediaDecodeError(name, f"its words cannot be read: {one_line(error)}") from error
        if found.boxes is None or not found.txts:
            return []
        corners = np.asarray(found.boxes, np.float64) / image.size  # (N, 4, 2)
        lines = zip(found.txts, found.scores, corners.clip(0, 1), strict=True)
        return [
            TextLine(text=text.strip(), confidence=float(score), box=tuple(box.ravel().tolist()))
            for text, score, box in lines
            if score >= min_confidence and text.strip()
        ]


def read_each(items: Iterable[tuple[K, Item]]) -> Iterator[tuple[K, list[TextLine] | InputError]]:
    """Yield the lines of each image, or of the frame at a moment, in order; or why they cannot be read."""

    def read(job: tuple[K, Item]) -> tuple[K, list[TextLine] | InputError]:
        key, item = job
        try:
            return key, read_words(item.media())
        except InputError as error:
            return key, detached(error)

    with ThreadPoolExecutor(_THREADS, "words") as pool:
        yield from map_ahead(read, items, pool, _THREADS)


def read_all_words(
    paths: Sequence[str | Path], left_out: Counter[str], excluded: Sequence[str] = (), progress: Track = untracked
) -> tuple[dict[str, list[TextLine]], list[InputError]]:
    """Return the lines of each image or moment ("clip.mp4@12s"), by path, and the images that cannot be read.

    `left_out`, `excluded`: see `list_items`. Raises DataError if there are no images.
    """
    items = list(list_items(paths, left_out, excluded))
    if not items:
        raise DataError(f"no images in {', '.join(map(str, paths))}")
    WordReader.shared()  # before the bar
    found, failures = dict[str, list[TextLine]](), list[InputError]()
    named = ((item.path if item.start is None else f"{item.path}@{item.start:g}s", item) for item in items)
    for path, lines in progress(read_each(named), "reading words", len(items)):
        if isinstance(lines, InputError):
            failures.append(lines)
        else:
            found[path] = lines
    return found, failures
