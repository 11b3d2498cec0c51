"""A run that is killed at any moment goes on where it stopped and ends with the very file of an unbroken run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = """
import os, random, signal, sys, time, traceback
from pathlib import Path
import torch
from perception_encoder.inference.load import load
from perception_encoder.inference.listing import list_items
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.inference.pipeline import encode_items

folder, checkpoint, target, kills = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
encoder = load(checkpoint, dtype=torch.float32)
feature = encoder.feature(0, "mean")
settings = encoder.describe(feature)

def embed(out):
    with EmbeddingWriter(out, settings, part_bytes=1) as writer:
        for batch in encode_items(encoder, writer.resume(list_items([folder])), feature, batch_size=16, workers=2):
            writer.add(batch)
        assert len(writer.failures) == 3, writer.failures
        writer.finish()

def start(out):
    child = os.fork()
    if not child:
        status = 1
        try:
            embed(out)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child

def shards():
    try:
        return sum(name.endswith(".parquet") for name in os.listdir(parts))
    except FileNotFoundError:  # before the first, and while a run that ends removes them
        return 0

def running(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

assert os.waitpid(start(target), 0)[1] == 0
expected = target.read_bytes()

chance = random.Random(int(sys.argv[5]))
out = target.with_name("killed.parquet")
parts = out.with_name(out.name + ".parts")
killed, finished, resumed = 0, 0, 0
while killed < kills or not out.exists():
    before = shards()
    resumed += before > 0
    child = start(out)
    if killed < kills:  # by its progress, not by the clock: other work on this machine may slow it down
        more = chance.randrange(7)
        while running(child) and (shards() < before + more):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    killed += os.WIFSIGNALED(status)
    assert os.WIFSIGNALED(status) or status == 0, status
    if out.exists():
        assert out.read_bytes() == expected
        finished += 1
        if killed < kills:
            out.unlink()
            if (parts / "settings.json").exists():
                assert sum(int(path.stem.split("-")[1]) for path in parts.glob("*.parquet")) == 240
print(killed, finished, resumed)
"""


@pytest.mark.timeout(240)
def test_twenty_kills_change_no_byte(checkpoint: Path, image_files: list[Path], tmp_path: Path) -> None:
    directory = tmp_path / "many"
    directory.mkdir()
    for number in range(240):
        (directory / f"{number:03d}.jpg").hardlink_to(image_files[number % len(image_files)])
    for number in (5, 100, 239):
        (directory / f"{number:03d}.jpg").unlink()
        (directory / f"{number:03d}.jpg").write_bytes(b"\xff\xd8\xff")
    command = [sys.executable, "-c", HARNESS, directory, checkpoint, tmp_path / "unbroken.parquet", "20", "2504"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed, finished, resumed = map(int, done.stdout.split())
    assert killed == 20
    assert finished >= 1
    assert resumed >= 5
