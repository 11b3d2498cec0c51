"""Fixtures that several test modules share."""

from __future__ import annotations

import atexit
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network is no test; set before the hub's client is imported
os.environ.pop("PE_MODEL", None)
for _name in ("CONFIG", "CACHE"):  # the user's own settings are none of a test's
    os.environ[f"XDG_{_name}_HOME"] = _folder = tempfile.mkdtemp(prefix="pe-tests-")
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
for _name in ("COLUMNS", "LINES"):  # of a worker's terminal, by which the console would be made; `run_pe` says its own
    os.environ.pop(_name, None)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs and clips that PE_TEST_DATA names; skips the test without it."""
    folder = os.environ.get("PE_TEST_DATA")
    if not folder:
        pytest.skip("PE_TEST_DATA names no folder of real photographs and clips")
    return Path(folder)


@dataclass(frozen=True)
class Run:
    """How a `pe` command ended."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def run_pe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run `pe` in this process: `run_pe("models", "--json")` returns its exit status, stdout and stderr."""
    from perception_encoder.cli.main import main

    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str | Path) -> Run:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(int(stop.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of training data: 40 small pictures of two sources and four labels, and a test split."""
    import numpy as np
    from PIL import Image

    from perception_encoder.data.shards import ShardSample, write_shard

    rng = np.random.default_rng(0)
    things = [("caltech101", "cup"), ("caltech101", "ant"), ("flowers", "rose"), ("flowers", "daisy")]
    samples = []
    for index in range(40):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(stream, "PNG")
        source, label = things[index % 4]
        samples.append(ShardSample(f"{source}-{index}", "png", stream.getvalue(), {"source": source, "label": label}))
    write_shard(tmp_path / "photos" / "train.tar", samples)
    others = [{"source": "caltech101", "label": f"x{n}"} for n in range(12)]  # among them the ten never trained on
    test = [ShardSample(f"t{n}", "png", samples[0].picture, others[n]) for n in range(12)]
    write_shard(tmp_path / "photos" / "test.tar", test)
    return tmp_path / "photos"
