"""Language alignment by several processes: the losses of one process, by DDP and by FSDP2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.language_alignment.weights import read_trained
from tests import processes
from tests.language_models import write_tiny_decoder
from tests.processes import pe

FLOAT32 = {"PE_DTYPE": "float32"}
"""In bfloat16, other parts of a batch round differently."""


def train(data: Path, out: Path, decoder: Path, ranks: int, kind: str, *settings: str) -> list[float]:
    """The losses of a run's steps."""
    told = [f"decoder={decoder}", "context=300", "batch_size=4", f"parallel.kind={kind}", *settings]
    words = ["train", "language_builtin", "--debug", "--data", str(data), "--out", str(out)]
    words += [word for setting in told for word in ("--set", setting)]
    log = out.with_name(f"{out.name}.log")
    started = processes.start(pe, *words, log=log, ranks=None if ranks == 1 else ranks, environment=FLOAT32)
    assert not any(started.statuses()), started.output()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["next_token"] for row in rows if "next_token" in row]


@pytest.mark.parametrize("trained", ["lora=null", "lora.rank=2"], ids=["all weights", "adapters"])
def test_ranks_train_as_one(tmp_path: Path, trained: str) -> None:
    lines = []
    for number in range(24):
        Image.new("RGB", (40, 40), (9 * number, 120, 200)).save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "number " + "9" * (number % 5)}]
        lines.append(json.dumps({"id": str(number), "image": f"{number}.png", "conversations": turns}) + "\n")
    data, decoder = tmp_path / "data.jsonl", write_tiny_decoder(tmp_path / "decoder")
    data.write_text("".join(lines))
    one = train(data, tmp_path / "one", decoder, 1, "ddp", trained)
    assert len(one) == 4
    for kind in ("ddp", "fsdp"):
        assert train(data, tmp_path / kind, decoder, 2, kind, trained) == pytest.approx(one, rel=5e-5)
        own, other = (read_trained(tmp_path / run / "language.safetensors")[1] for run in ("one", kind))
        assert own.keys() == other.keys()
