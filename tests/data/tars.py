"""WebDataset tars of small plain images, each of another colour, and tars as Hugging Face's `datasets` reads them."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from perception_encoder.preprocess.image import image_file


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@contextmanager
def changing(path: Path) -> Iterator[Any]:
    """Give the content of a JSON file, and write it with its changes."""
    content = json.loads(path.read_text(encoding="utf-8"))
    yield content
    path.write_text(json.dumps(content), encoding="utf-8")


def image_bytes(number: int, kind: str = "PNG", size: tuple[int, int] = (12, 10)) -> bytes:
    return image_file(Image.new("RGB", size, (number, 255 - number, 7)), kind)


def write_pairs(path: Path, numbers: range, **others: bytes) -> Path:
    """Images of these numbers, "number N" in their .txt; `others`: members in place of these, n3_txt=b"…"."""
    members = {}
    for number in numbers:
        members |= {f"n{number}.png": image_bytes(number), f"n{number}.txt": f"number {number}".encode()}
    return write_tar(path, members | {name.replace("_", "."): content for name, content in others.items()})


def load_webdataset(directory: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """The JSON of each sample of a directory's tars, in order; the test is skipped without `datasets`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        datasets = pytest.importorskip("datasets")
        files = {"train": str(directory / "*.tar")}
        data = datasets.load_dataset(
            "webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "datasets")
        )
        return list(data.select_columns("json")["json"])
