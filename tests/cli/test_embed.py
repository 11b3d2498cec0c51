"""`pe embed`: files in, vectors out, bad ones listed, stopped runs finished later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import perception_encoder as pe
from perception_encoder.cli import output
from perception_encoder.inference.collection import read_collection
from perception_encoder.inference.load import load

Embed = Callable[..., Any]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Twelve images."""
    directory = tmp_path / "images"
    directory.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 30)).save(directory / f"{number:02d}.jpg")
    return directory


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


@pytest.fixture
def embed(run_pe: Embed, checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
    """Run `pe embed` with the small model in float32."""
    monkeypatch.setenv("PE_DTYPE", "float32")
    return lambda *arguments: run_pe("embed", "-o", out, "-m", checkpoint, *arguments)


def test_the_call_writes_what_the_command_writes(embed: Embed, directory: Path, checkpoint: Path, out: Path) -> None:
    assert embed(directory).status == output.OK
    expected = out.read_bytes()
    (directory / "bad.jpg").write_bytes(b"no image")
    seen = []

    def track(items: Iterable[object], description: str, total: int | None) -> Iterator[object]:
        for item in items:
            seen.append(total)
            yield item

    report = pe.embed(directory, out, model=checkpoint, overwrite=True, progress=track)
    assert out.read_bytes() == expected and (report.rows, report.encoded) == (12, 13) and seen == [13] * 13
    assert [error.source for error in report.skipped] == [str(directory / "bad.jpg")]
    assert report.to_dict()["skipped"][0]["path"] == str(directory / "bad.jpg")


def test_images_become_rows(embed: Embed, directory: Path, checkpoint: Path, out: Path) -> None:
    run = embed(directory)
    assert (run.status, run.stderr) == (output.OK, "")
    assert run.stdout.startswith(f"12 embeddings in {out}, ")
    table = pq.read_table(out)
    assert [Path(path).name for path in table["path"].to_pylist()] == [f"{number:02d}.jpg" for number in range(12)]
    encoder = load(checkpoint, dtype=torch.float32)
    expected = encoder.encode(sorted(directory.iterdir()))
    np.testing.assert_allclose(np.array(table["vector"].to_pylist(), np.float32), expected, rtol=0, atol=2e-6)
    assert set(table["model"].to_pylist()) == {"PE-Core-N16-128"}
    assert set(table["weight_hash"].to_pylist()) == {encoder.weight_hash}


def test_settings_reach_the_model(embed: Embed, directory: Path, checkpoint: Path, out: Path) -> None:
    assert embed(directory, "--layer", "-3", "--pool", "tokens", "--no-normalize").status == 0
    rows = pq.read_table(out).to_pylist()
    assert {(row["layer"], row["pool"], row["normalized"]) for row in rows} == {(9, "tokens", False)}
    expected = load(checkpoint, dtype=torch.float32).encode(directory / "07.jpg", False, layer=9, pool="tokens")
    np.testing.assert_allclose(np.float32(rows[7]["vector"]), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("media", "runtime"), [("images", "torch"), ("captions.csv", "openvino")])
def test_the_file_says_what_computed_it(
    directory: Path, checkpoint: Path, out: Path, media: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime may leave the image tower to torch, which it learns by preparing it; texts do not need it."""
    (directory.parent / "captions.csv").write_text("text\na dog\n")
    encoder = load(checkpoint, dtype=torch.float32)
    computes = ["openvino", "int8"]
    monkeypatch.setattr(encoder.runtime, "used", lambda layer, texts=False: tuple(computes))
    monkeypatch.setattr(encoder.runtime, "prepare", lambda layer: computes.__setitem__(0, "torch"))
    pe.embed(directory.parent / media, out, model=encoder)
    found = read_collection(out)
    assert found is not None and found[1]["runtime"] == runtime


def test_bad_files_are_listed_and_change_the_status_under_strict(embed: Embed, directory: Path, out: Path) -> None:
    (directory / "03.jpg").write_bytes(b"")
    (directory / "07.jpg").write_bytes(b"words")
    run = embed(directory, "--layer", "0")
    assert run.status == output.OK
    assert run.stdout.startswith("10 embeddings in")
    lines = run.stderr.splitlines()
    assert [word in line for word, line in zip(["03.jpg", "07.jpg"], lines, strict=False)] == [True] * 2
    assert lines[-1] == "warning: 2 of 12 inputs skipped"
    assert pq.read_table(out).num_rows == 10
    assert embed(directory, "--layer", "0", "--overwrite", "--strict").status == output.SOME_SKIPPED


def test_without_a_good_input_the_status_is_that_of_an_error(embed: Embed, directory: Path, out: Path) -> None:
    (directory / "03.jpg").write_bytes(b"")
    run = embed(directory / "03.jpg", "--layer", "0")
    assert run.status == output.ERROR and "03.jpg: is empty" in run.stderr and not out.exists()
    run = embed(directory, "gone.jpg", "--layer", "0")
    assert run.status == output.ERROR and run.stderr == "error: gone.jpg: no such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "12"], "layers 0 to 11"),
        (["--pool", "attn", "--layer", "2"], "after layer 11 only"),
        (["--pool", "max"], "'max'"),
        (["-m", "PE-Core-B16-244"], "PE-Core-B16-224"),
        (["-m", "gone.safetensors"], "gone.safetensors"),
        (["-o", "out.csv"], ".parquet"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(
    embed: Embed, directory: Path, arguments: list[str], message: str
) -> None:
    run = embed(directory, *arguments)
    assert run.status == output.ERROR
    assert message in " ".join(run.stderr.split())
    assert run.stdout == ""


def test_nothing_to_embed_is_an_error(embed: Embed, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = embed(tmp_path / "empty")
    assert run.status == output.ERROR
    assert "no images, videos or texts in" in run.stderr
    assert os.listdir(tmp_path) == ["empty"]


def test_a_file_of_something_else_is_replaced_on_request_only(embed: Embed, directory: Path, out: Path) -> None:
    out.write_bytes(b"mine")
    run = embed(directory, "--layer", "0")
    assert run.status == output.ERROR
    assert "set overwrite to replace it" in run.stderr
    assert out.read_bytes() == b"mine"
    assert embed(directory, "--layer", "0", "--overwrite").status == output.OK
    assert pq.read_table(out).num_rows == 12


@pytest.mark.timeout(240)
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_is_finished_by_the_same_command(
    embed: Embed, directory: Path, checkpoint: Path, tmp_path: Path, out: Path, stop: signal.Signals
) -> None:
    originals = sorted(directory.iterdir())
    for number in range(12, 1500):
        (directory / f"{number:04d}.jpg").hardlink_to(originals[number % 12])
    code = f"""
import os, signal, sys
from perception_encoder.cli.main import main
from perception_encoder.inference import output as module
from perception_encoder.inference.output import EmbeddingWriter

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored

flush = EmbeddingWriter.flush

def flush_and_stop(writer):
    before = len(writer.parts.rows)
    flush(writer)
    if before == 1 and len(writer.parts.rows) == 2:
        os.kill(os.getpid(), {stop:d})

EmbeddingWriter.flush = flush_and_stop
module.PART_SECONDS = 0.1
main(sys.argv[1:])
"""
    arguments = ["embed", directory, "-o", out, "-m", checkpoint, "--layer", "0"]
    run = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    parts = tmp_path / "out.parquet.parts"
    _, message = run.communicate()
    assert not out.exists()
    if stop == signal.SIGINT:
        assert run.returncode == output.INTERRUPTED
        assert message.startswith("warning: stopped; ") and message.endswith("rerun the same command to resume\n")
    saved_rows = sum(pq.ParquetFile(path).metadata.num_rows for path in parts.glob("*.parquet"))
    assert 0 < saved_rows < 1500
    assert embed(directory, "--layer", "0").status == output.OK
    unbroken = tmp_path / "unbroken.parquet"
    assert embed(directory, "--layer", "0", "-o", unbroken).status == output.OK
    assert out.read_bytes() == unbroken.read_bytes()
