"""Fixtures that several test modules share."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from PIL import Image
    from playwright.sync_api import Browser

    from tests.browsing import Chromium

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network is no test; set before the hub's client is imported
os.environ.pop("PE_MODEL", None)
os.environ.setdefault("PE_MEASURE", "0")  # equal bits in all processes, on every machine
os.environ.setdefault("PE_RUNTIME", "torch")  # converting a model in every process of every test would take hours
for _name in ("CONFIG", "CACHE"):  # the user's own settings are none of a test's
    os.environ[f"XDG_{_name}_HOME"] = _directory = tempfile.mkdtemp(prefix="pe-tests-")
    atexit.register(shutil.rmtree, _directory, ignore_errors=True)
for _name in ("COLUMNS", "LINES"):  # of a worker's terminal, by which the console would be made; `run_pe` says its own
    os.environ.pop(_name, None)

if _limit := os.environ.pop("ONEDNN_MAX_CPU_ISA", None):
    # torch computes as an older CPU; OpenVINO asks the CPU itself, and fails where its oneDNN hides what it has found
    from perception_encoder.runtime.machine import float_hint

    with suppress(ImportError):
        float_hint(half=True)  # its oneDNN reads the variable once, now
    os.environ["ONEDNN_MAX_CPU_ISA"] = _limit

ROOT = Path(__file__).parent.parent
LONG = (
    "tests/search/storage/test_cluster.py",
    "tests/inference/test_cluster.py",
    "tests/search_page/test_page_browser.py",
    "tests/pretraining/test_parallel.py",
    "tests/dense_training/test_run.py",
    "tests/models/test_timm.py",
    "tests/models/test_golden.py",
    "tests/language_alignment/test_run.py",
    "tests/pretraining/test_validation.py",
    "tests/pretraining/test_sources.py",
    "tests/test_docs.py",
    "tests/pretraining/test_run.py",
    "tests/models/test_open_clip.py",
    "tests/video_dataset/annotation/test_page_browser.py",
    "tests/search/storage/test_index_kill.py",
    "tests/spatial_alignment/test_run.py",
    "tests/pretraining/test_distillation.py",
    "tests/test_shapes.py",
    "tests/training/test_distributed.py",
    "tests/models/test_memory.py",
    "tests/serving/test_memory.py",
    "tests/examples/test_examples.py",
    "tests/video_data_engine/test_cluster.py",
    "tests/inference/test_pipeline.py",
    "tests/test_store_users.py",
    "tests/experiments/test_video.py",
    "tests/language_models/test_load.py",
    "tests/cli/models/test_export.py",
)
"""The files that take longest, with pytest-xdist the first ones: then the workers end at the same time."""
SLOW = (
    "benchmarks/",  # what uses the package: scripts and notebooks
    "examples/",
    "experiments/",
    "cli/models/test_export.py",  # what is converted and compared
    "exports/",
    "inference/test_cluster.py",
    "inference/test_compiled_libraries.py",
    "models/test_open_clip.py",
    "models/test_timm.py",
    "runtime/test_openvino_towers.py",
    "runtime/test_quantization.py",
    "runtime/test_runtimes.py",
    "dense_training/test_run.py",  # whole runs, several processes, Ray
    "pretraining/test_parallel.py",
    "pretraining/test_sources.py",
    "pretraining/test_validation.py",
    "search/storage/test_cluster.py",
    "training/test_distributed.py",
    "training/test_resume.py",
    "video_data_engine/test_cluster.py",
    "video_data_engine/test_stopped.py",
    "search/storage/test_index_kill.py",  # kills
    "test_store_users.py",
    "test_foreign_directory.py",
    "video_dataset/annotation/test_page_browser.py",  # a second page in the browser
)
"""Files and directories of tests that `make test-slow` runs, and `make test` leaves out."""
MakeShard = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    """Let the files be shared out in the order of the tests; pytest-xdist's is by the number of their tests."""
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests; repeat one whose browser crashed; begin with the long files if processes share the work."""
    for item in items:
        if item.path.relative_to(ROOT / "tests").as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=2, only_rerun=["TargetClosedError"]))
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {ROOT / name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: places.get(item.path, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def int8_speeds() -> None:
    """No other work of this machine decides whether int8 may be used: its speed is cached, as if it were measured."""
    from perception_encoder.runtime.choice import measured_speeds

    speeds = {"openvino float32": 1.0, "openvino bfloat16": 2.0, "openvino int8": 3.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            sys.modules, "perception_encoder.runtime.timing", SimpleNamespace(measure_speeds=lambda int8: speeds)
        )
        assert measured_speeds(int8=True) == speeds


@pytest.fixture(autouse=True)
def equal_random_numbers() -> None:
    """Give a test the same random numbers in each run; torch is seeded only where it is imported already."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """A browser that starts when it is first needed."""
    from tests.browsing import running_chromium

    with running_chromium() as chromium:
        yield chromium


@pytest.fixture
def browser(chromium: Chromium) -> Browser:
    """The module's browser; tests that use it are skipped without one."""
    return chromium.browser()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real photographs and clips that PE_TEST_DATA names; skips the test without it."""
    path = os.environ.get("PE_TEST_DATA")
    if not path:
        pytest.skip("PE_TEST_DATA names no directory of real photographs and clips")
    return Path(path)


@pytest.fixture(scope="session", autouse=True)
def amx_rounding() -> None:
    """With PE_DTYPE=bfloat16, round products as a CPU with AMX does; `tests.processes` does so in its processes."""
    if os.environ.get("PE_DTYPE") == "bfloat16":
        from tests.rounding import round_as_amx

        round_as_amx()


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float32: in bfloat16 a row's rounding may depend on the number of rows beside it."""
    monkeypatch.setenv("PE_DTYPE", "float32")


@pytest.fixture
def tolerance() -> float:
    """How far two encodings of one input may differ in a number of a unit embedding, in this machine's dtype."""
    import torch

    from perception_encoder.models.precision import TOLERANCE, fast_dtype

    return TOLERANCE[str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")]


@dataclass(frozen=True)
class Run:
    """How a `pe` command ended."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Take away the handler that a command in this process adds: it writes to a stream that its test has closed."""
    before = logging.root.handlers[:]
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.root.removeHandler(handler)


@pytest.fixture
def warm_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pools that spawn processes fork them from the tests' server: there Python and torch have started already."""
    from tests.processes import server

    usual = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda way: server() if way == "spawn" else usual(way))


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


@pytest.fixture(scope="session")
def written() -> Image.Image:
    """An image with two lines of text; skips without the extra `words`."""
    pytest.importorskip("rapidocr")
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (640, 480), "white")
    draw = ImageDraw.Draw(image)
    draw.text((40, 60), "Invoice 2024", "black", ImageFont.load_default(48))
    draw.text((60, 300), "Total 41,20 EUR", "black", ImageFont.load_default(40))
    return image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A directory of training data: 40 small images of two sources and four labels, and a test split."""
    from PIL import Image

    from perception_encoder.formats.shards import ShardSample
    from perception_encoder.preprocess.image import image_file
    from synthetic.shards import write_shard

    rng = np.random.default_rng(0)
    classes = [("caltech101", "cup"), ("caltech101", "ant"), ("flowers", "rose"), ("flowers", "daisy")]
    samples = []
    for index in range(40):
        content = image_file(Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)), "PNG")
        source, label = classes[index % 4]
        samples.append(ShardSample(f"{source}-{index}", "png", content, {"source": source, "label": label}))
    write_shard(tmp_path / "photos" / "train.tar", samples)
    others = [{"source": "caltech101", "label": f"x{n}"} for n in range(12)]  # among them the ten never trained on
    test = [ShardSample(f"t{n}", "png", samples[0].image, others[n]) for n in range(12)]
    write_shard(tmp_path / "photos" / "test.tar", test)
    return tmp_path / "photos"


@pytest.fixture
def make_shard(tmp_path: Path) -> MakeShard:
    """`make_shard("photos/train.tar", [("caltech101", "cup"), …], size=(w, h))` writes a shard of red pictures."""
    from PIL import Image

    from perception_encoder.formats.shards import ShardSample
    from perception_encoder.preprocess.image import image_file
    from synthetic.shards import write_shard

    def make(name: str, rows: list[tuple[str, str]], size: tuple[int, int] = (30, 20), **extra: object) -> Path:
        content = image_file(Image.new("RGB", size, (200, 0, 0)), "PNG")
        samples = [
            ShardSample(f"{source}-{i}", "png", content, {"source": source, "label": label, **extra})
            for i, (source, label) in enumerate(rows)
        ]
        write_shard(tmp_path / name, samples)
        return tmp_path / name

    return make
