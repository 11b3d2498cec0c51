"""Files: what is read, what is refused and why, and that nothing in a file is ever run."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from perception_encoder.errors import CheckpointError
from perception_encoder.models.checkpoints.files import quantized_rows, read_checkpoint, write_tensors

pytestmark = pytest.mark.security

STATE = {"conv1.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "proj": torch.ones(3, 2).half()}


def save(path: Path, content: object = STATE, legacy: bool = False) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_state(path: Path) -> None:
    state, _ = read_checkpoint(path)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[n], t) and state[n].dtype == t.dtype for n, t in STATE.items())


@pytest.mark.parametrize("name", ["a.bin", "a.safetensors", "a b'ü.pt"])
def test_reading(tmp_path: Path, name: str) -> None:
    assert_state(save(tmp_path / name))


def test_what_a_file_is_shows_in_its_content(tmp_path: Path) -> None:
    assert_state(save(tmp_path / "legacy.pt", legacy=True))
    assert_state(save(tmp_path / "a.safetensors").rename(tmp_path / "hash-without-suffix"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"weights": s},
        lambda s: {"state_dict": {"weights": s}},
        lambda s: {f"module.{n}": t for n, t in s.items()},
        lambda s: {"weights": {f"module.{n}": t for n, t in s.items()}, "step": 1},
    ],
)
def test_what_trainers_wrap_around_a_state_dict(tmp_path: Path, wrap) -> None:
    assert_state(save(tmp_path / "a.pt", wrap(STATE)))


class Trap:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "code ran")


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare pickle", "named safetensors"])
def test_code_is_refused_and_does_not_run(tmp_path: Path, kind: str) -> None:
    trap = Trap(tmp_path / "proof")
    pickle.loads(pickle.dumps(trap))
    assert trap.path.exists()  # the trap works
    trap.path.unlink()
    path = tmp_path / ("a.safetensors" if kind == "named safetensors" else "a.pt")
    content = {**STATE, "extra": trap}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    with pytest.raises(CheckpointError, match=r"refused|not a checkpoint") as caught:
        read_checkpoint(path)
    assert not trap.path.exists()
    assert str(path) in str(caught.value)
    if kind in ("zip", "legacy"):
        assert "refused, it would run" in str(caught.value)


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.add(Path(__file__), "a")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "a directory"),
        (lambda p: p.write_bytes(b""), "empty, damaged"),
        (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n"), "not a checkpoint"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(200)), "not a checkpoint"),
        (tar, "not a checkpoint"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_checkpoint(tmp_path: Path, write, message: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1], torch.ones(2), {1: torch.ones(2)}, {"a": 1, "b": torch.ones(1)}])
def test_what_is_no_state_dict(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt: not a (plain )?state dict"):
        read_checkpoint(save(tmp_path / "a.pt", content))


@pytest.mark.parametrize(("suffix", "legacy"), [(".pt", False), (".pt", True), (".safetensors", False)])
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path, suffix: str, legacy: bool) -> None:
    whole = save(tmp_path / f"whole{suffix}", legacy=legacy).read_bytes()
    generator = random.Random(0)
    refused = 0
    for number in range(150):
        damaged = bytearray(whole)
        if number % 2:
            del damaged[generator.randrange(len(damaged)) :]
        else:
            for _ in range(5):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 75


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_writing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / "folder" / f"a{suffix}"
    write_tensors(STATE, path, {"model": "m"})
    assert_state(path)
    if suffix == ".safetensors":
        assert read_checkpoint(path)[1] == {"format": "pt", "model": "m"}
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # readable by those the umask says
    assert [p.name for p in path.parent.iterdir()] == [path.name]


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from perception_encoder.errors import OutputError
from perception_encoder.models.checkpoints.files import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_tensors({"a": torch.ones(100_000)}, Path(sys.argv[1]), {})
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_disk_that_fills_up(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, timeout=100)
    assert f"{path} could not be written" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rows_as_int8(tmp_path: Path) -> None:
    table = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 50)[:, None]
    table[7] = 0
    rows = quantized_rows("table", table)
    assert rows["table"].dtype == torch.int8
    write_tensors(rows, tmp_path / "a.safetensors", {})
    state, _ = read_checkpoint(tmp_path / "a.safetensors")
    assert state.keys() == {"table"}
    bound = table.abs().amax(dim=1, keepdim=True) / 127 / 2 * 1.001  # half a step
    assert ((state["table"] - table).abs() <= bound).all()
