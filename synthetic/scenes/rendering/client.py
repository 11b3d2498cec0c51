"""Connect to pybullet without a window and without its messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from synthetic.scenes.objects.bundled import missing_pybullet


def connect_pybullet() -> Any:
    """Return a client of pybullet without a window; `missing_pybullet` if it is not installed."""
    with silence_output():
        try:
            import pybullet
            from pybullet_utils.bullet_client import BulletClient
        except ImportError as error:
            raise missing_pybullet() from error
        return BulletClient(pybullet.DIRECT)


@contextmanager
def silence_output() -> Iterator[None]:
    """Keep what pybullet's C code prints, as it begins and ends, off the standard streams."""
    sys.stdout.flush()
    copies = [os.dup(stream) for stream in (1, 2)]
    with open(os.devnull, "wb") as nowhere:
        try:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
            yield
        finally:
            for stream, copy in zip((1, 2), copies, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
