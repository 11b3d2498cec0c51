"""File names that are not UTF-8: no command ends in a traceback, and logs and files hold escapes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.data.conversations import open_conversations
from tests.conftest import Run

BYTES = b"caf\xe9"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Class directories and images whose names are in Latin-1."""
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + BYTES))
    for label in (BYTES, b"red"):
        for number in range(10):
            image = Path(os.fsdecode(os.path.join(os.fsencode(directory), label, b"\xe9%d.png" % number)))
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (200, number, 0) if label == b"red" else (0, number, 200)).save(image)
    return directory


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "knn", "builtin", "--k", "1", "--data", "ODD", "-o", "OUT.json"),
        ("eval", "classification", "builtin", "--transform", "squash", "--data", "ODD", "-o", "OUT.json"),
        ("data", "shards", "ODD", "-o", "OUT"),
        ("train", "finetune", "--debug", "--data", "ODD", "-o", "OUT"),
        ("layers", "random:builtin", "--tasks", "retrieval", "--layer", "1", "--data", "ODD", "-o", "OUT"),
    ],
)
def test_commands_read_any_name(
    run_pe: Callable[..., Run], odd: Path, tmp_path: Path, command: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    run = run_pe(*({"ODD": odd, "OUT": out, "OUT.json": out.with_suffix(".json")}.get(word, word) for word in command))
    assert run.status == 0, run.stderr
    (run.stdout + run.stderr + caplog.text).encode()  # no lone surrogates
    if out.with_suffix(".json").exists():
        result = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
        assert result["scores"][0]["task"].startswith("caf\\xe9")


def test_a_log_line_has_no_lone_surrogate(odd: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = {"image": "a.png", "conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "a"}]}
    (odd / "data.jsonl").write_text(f"{json.dumps(good)}\n{{}}\n", encoding="utf-8")
    open_conversations(odd / "data.jsonl", skip_bad=True)
    assert "left out 1 bad samples of 2" in caplog.text
    caplog.text.encode()


def test_print0_gives_the_names_of_files_as_they_are(odd: Path) -> None:
    shutil.rmtree(odd / "red")
    (directory,) = odd.iterdir()
    paths = sorted(directory.iterdir())
    (paths[0].rename(directory / "a\nb\\x0a.png"), paths[1].rename(directory / "\x1b.png"))
    command = [sys.executable, "-m", "perception_encoder", "search", "--text", "a cat", odd, "-m", "builtin", "-0"]
    found = subprocess.run(command, capture_output=True, check=True).stdout.split(b"\0")
    assert sorted(found) == sorted([b"", *(os.fsencode(path) for path in directory.iterdir())])
