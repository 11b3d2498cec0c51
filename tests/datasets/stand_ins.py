"""Tiny copies of the hub's repositories, in their exact layouts, and a hub that serves them from a directory."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.clips import clip
from tests.data.tars import image_bytes, write_tar
from tests.datasets.questions.layouts import write_json
from tests.evaluation.layers import png

NAMES = ["red cup", "green cup", "blue cup"]
VIDEO = clip(16)


def zip_of(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def wds(root: Path, suffix: str = "jpg", templates: str = "a photo of {c}, a type of food.\n") -> None:
    """An evaluation set of CLIP_benchmark."""
    members: dict[str, bytes] = {}
    for number in range(6):
        members[f"s{number:07}.cls"] = str(number % 3).encode()
        members[f"s{number:07}.{suffix}"] = image_bytes(40 * (number % 3), {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    write_tar(root / "test" / "0.tar", members)
    (root / "test" / "nshards.txt").write_text("1\n")
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (root / "zeroshot_classification_templates.txt").write_text(templates)


def wds_captions(root: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(4):
        members[f"s{number:07}.jpg"] = image_bytes(30 * number, "JPEG")
        members[f"s{number:07}.txt"] = f"a cup {number}\na red cup {number}".encode()
    write_tar(root / "test" / "0.tar", members)
    (root / "dataset_type.txt").write_text("retrieval\n")


def mteb(root: Path, column: str, names: Sequence[str] = ()) -> None:
    """A table of videos with their sound, as mteb uploads them; the names of classes are in the schema."""
    sound = {"bytes": b"a sound", "path": None}
    rows = [
        {
            "video": {"bytes": VIDEO, "path": f"{n}.mp4"},
            "audio": sound,
            column: n % len(names) if names else f"clip {n}",
        }
        for n in range(3)
    ]
    table = pa.Table.from_pylist(rows)
    features: dict[str, Any] = {"video": {"_type": "Video"}, "audio": {"_type": "Audio"}}
    features[column] = {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": "string", "_type": "Value"}
    described = json.dumps({"info": {"features": features}}).encode()
    path = root / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table.replace_schema_metadata({b"huggingface": described}), path, row_group_size=2)


def msrvtt(root: Path) -> None:
    rows = [
        {"video_id": f"video{n}", "video": f"video{n}.mp4", "caption": f"clip {n}", "source": "MSR-VTT", "category": 3}
        for n in (7020, 7021)
    ]
    write_json(root / "msrvtt_test_1k.json", rows)
    zip_of(root / "MSRVTT_Videos.zip", {f"video/video{n}.mp4": VIDEO for n in (7020, 7021, 1)})


def msvd(root: Path) -> None:
    names = ("-4wsuPCjDBc_5_15", "zzit5b_-ukg_5_20")
    write_json(root / "msvd_test.json", [{"video": f"{name}.avi", "caption": ["a man", "he runs"]} for name in names])
    (root / "raw_videos").mkdir(parents=True)
    for name in names:
        (root / "raw_videos" / f"{name}.avi").write_bytes(VIDEO)


def didemo(root: Path) -> None:
    videos = ("test/1.mp4", "test/2.MP4")
    rows = [{"video": name, "caption": f"clip {name}. it ends.", "source": "DiDeMo"} for name in videos]
    write_json(root / "didemo_test.json", rows)
    write_tar(root / "DiDeMo_Videos_mp4_test.tar", {f"video/{name}": VIDEO for name in videos})


def ucf101(root: Path) -> None:
    clips = [f"{name}/v_{name}_g01_c01.avi" for name in ("ApplyEyeMakeup", "YoYo")]
    zip_of(root / "UCF101.zip", {f"UCF-101/{name}": VIDEO for name in clips})
    lists = {"ucfTrainTestlist/testlist01.txt": "".join(f"{name}\n" for name in clips).encode()}
    zip_of(root / "UCF101TrainTestSplits-RecognitionTask.zip", lists)


def pe_video(root: Path) -> None:
    members: dict[str, bytes] = {}
    for n in range(3):
        about = {"human_caption": f"clip {n}" if n else None, "model_caption": "a clip", "category": "animals"}
        members |= {f"{n}.mp4": VIDEO, f"{n}.json": json.dumps(about).encode()}
    write_tar(root / "test" / "000000.tar", members)


def davis(path: Path) -> None:
    """The archive of DAVIS 2017's authors."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    members = {"DAVIS/ImageSets/2017/val.txt": b"bike\n"}
    for number in range(3):
        pixels[8:24, 8 + 4 * number : 24 + 4 * number] = 255
        members[f"DAVIS/JPEGImages/480p/bike/{number:05}.jpg"] = png(pixels)
        members[f"DAVIS/Annotations/480p/bike/{number:05}.png"] = png((pixels[..., 0] > 0).astype(np.uint8))
    zip_of(path, members)


def nyu(root: Path) -> None:
    """FastDepth's HDF5 files: eight of each split, whose depth rises by row."""
    h5py = pytest.importorskip("h5py")
    depth = np.repeat(np.linspace(1, 4, 48, dtype=np.float32)[:, None], 64, axis=1)
    for split, place in (("train", "train/kitchen_0001a"), ("val", "val/official")):
        members: dict[str, bytes] = {}
        for number in range(1, 9):
            stream = io.BytesIO()
            with h5py.File(stream, "w") as file:
                file["rgb"] = np.full((3, 48, 64), 10 * number, np.uint8)
                file["depth"] = depth
            members[f"{place}/{number:05}.h5"] = stream.getvalue()
        write_tar(root / "data" / f"{split}-000000.tar", members)


def kinetics(root: Path) -> None:
    """What Kinetics-400's site serves: the list of val, and its clips in parts."""
    root.mkdir(parents=True)
    rows = ["label,youtube_id,time_start,time_end,split,is_cc"]
    for part, label in enumerate(("abseiling", "air drumming")):
        rows.append(f"{label},0000000000{part},{part},{part + 10},validate,0")
        with tarfile.open(root / f"part_{part}.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo(f"./0000000000{part}_{part:06}_{part + 10:06}.mp4")
            member.size = len(VIDEO)
            tar.addfile(member, io.BytesIO(VIDEO))
    (root / "val.csv").write_text("\n".join(rows) + "\n")


class Hub:
    """Serves REPOSITORY from a directory in place of huggingface.co, and counts the files that are downloaded."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.downloaded = root, list[str]()
        patch.setattr("huggingface_hub.HfApi.dataset_info", lambda api, repo, **_: self.info(repo))
        patch.setattr("huggingface_hub.snapshot_download", self.download)

    def info(self, repository: str) -> SimpleNamespace:
        directory = self.root / repository
        if not directory.is_dir():
            raise OSError(f"404 Client Error.\n\nRepository Not Found for url: https://huggingface.co/{repository}.")
        files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        names = [path.relative_to(directory).as_posix() for path in files]
        sizes = [path.stat().st_size for path in files]
        pairs = zip(names, sizes, strict=True)
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in pairs])

    def download(self, repository: str, *, repo_type: str, local_dir: Path, allow_patterns: list[str]) -> str:
        assert repo_type == "dataset"
        for item in self.info(repository).siblings:
            if any(fnmatch(item.rfilename, pattern) for pattern in allow_patterns):
                self.downloaded.append(item.rfilename)
                target = Path(local_dir, item.rfilename)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.root / repository / item.rfilename, target)
        return str(local_dir)
