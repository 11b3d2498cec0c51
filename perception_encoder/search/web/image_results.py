"""What models compute of the page's images and moments; the latest results are cached within a memory budget."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, Protocol, TypeVar

from PIL import Image

from perception_encoder.inference.media import open_media
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.search.web.library import MediaLibrary


class Sized(Protocol):
    """A result that takes memory."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory, about."""
        ...


V = TypeVar("V", bound=Sized)


class ImageResults(Generic[V]):
    """Results for a library's images, and for the frames of its moments; threads may share one."""

    def __init__(self, library: MediaLibrary, budget: int) -> None:
        """`budget`: bytes of cached results; one image's is always cached."""
        self._library, self._budget, self._lock = library, budget, threading.Lock()
        self._cache: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, row_id: str, compute: Callable[[Image.Image], V], variant: Hashable = None) -> V:
        """Return a row's result, which `compute` makes of the image if it is not cached or the file has changed.

        `variant`: tells apart the results of several functions. Raises what `MediaLibrary.media` and `compute` raise,
        and the InputError of a file that cannot be decoded.
        """
        media, path = self._library.media(row_id)
        status = path.stat()
        key = (path, media.start, status.st_mtime_ns, status.st_size, variant)
        with self._lock:  # one at a time, so that nothing is computed twice
            if key not in self._cache:
                with DECODING.admission() as admit:
                    opened = open_media(media, admit=admit)
                    image = opened.images[0] if isinstance(opened, VideoFrames) else opened
                    assert isinstance(image, Image.Image)  # rows are not texts
                    self._cache[key] = self._library.compute(partial(compute, image))
                while len(self._cache) > 1 and sum(each.nbytes for each in self._cache.values()) > self._budget:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            return self._cache[key]
