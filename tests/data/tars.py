"""WebDataset tars of small plain images, each of another colour."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def image_bytes(number: int, kind: str = "PNG", size: tuple[int, int] = (12, 10)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (number, 255 - number, 7)).save(stream, kind)
    return stream.getvalue()


def write_pairs(path: Path, numbers: range, **others: bytes) -> Path:
    """Images of these numbers, "number N" in their .txt; `others`: members in place of these, n3_txt=b"…"."""
    members = {}
    for number in numbers:
        members |= {f"n{number}.png": image_bytes(number), f"n{number}.txt": f"number {number}".encode()}
    return write_tar(path, members | {name.replace("_", "."): content for name, content in others.items()})
