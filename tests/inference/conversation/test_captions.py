"""Files of captions that a run resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from perception_encoder.errors import ConfigError, DataError, OutputError
from perception_encoder.inference.conversation.captions import Caption, CaptionFile
from perception_encoder.inference.listing import Item


def row(identity: str, **fields: object) -> Caption:
    values = {
        "path": identity,
        "start": None,
        "end": None,
        "caption": "c",
        "finished": True,
        "model": "m",
        "prompt": "p",
    }
    return Caption(id=identity, **{**values, **fields})


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_file_grows_and_is_read_again(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    first = CaptionFile(out, "m", "", "p")
    first.add([row("a"), row("b", start=1.0, end=2.0)])
    lines = out if suffix == ".jsonl" else tmp_path / "out.parquet.jsonl"
    with lines.open("a") as file:
        file.write('{"id": "c", "pa')  # cut off by a kill
    second = CaptionFile(out, "m", "", "p")
    assert list(second.rows.values()) == [row("a"), row("b", start=1.0, end=2.0)]
    items = [Item("a", "a"), Item("c", "c"), Item("b", "b", None, 1.0, 2.0)]
    assert [item.id for item in second.missing(items)] == ["c"]
    second.add([row("c")])
    second.finish()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    rows = (
        pq.read_table(out).to_pylist() if suffix == ".parquet" else list(map(json.loads, out.read_text().splitlines()))
    )
    assert [entry["id"] for entry in rows] == ["a", "b", "c"] and rows[1]["end"] == 2.0
    third = CaptionFile(out, "m", "", "p")
    third.finish()
    assert third.rows == second.rows


def test_captions_of_another_model_or_prompt_are_not_mixed(tmp_path: Path) -> None:
    CaptionFile(tmp_path / "out.jsonl", "m", "", "p").add([row("a")])
    for model, prompt in (("n", "p"), ("m", "q")):
        with pytest.raises(OutputError, match=f"has captions by 'm' for 'p', not by '{model}' for '{prompt}'"):
            CaptionFile(tmp_path / "out.jsonl", model, "", prompt)
    (tmp_path / "bad.jsonl").write_text("no JSON\n")
    with pytest.raises(DataError, match=r"bad\.jsonl:1 is not JSON"):
        CaptionFile(tmp_path / "bad.jsonl", "m", "", "p")
    (tmp_path / "other.jsonl").write_text('{"name": 1}\n')
    with pytest.raises(OutputError, match="does not have the columns of captions"):
        CaptionFile(tmp_path / "other.jsonl", "m", "", "p")
    with pytest.raises(ConfigError, match=r"must end in \.jsonl or \.parquet"):
        CaptionFile(tmp_path / "out.csv", "m", "", "p")
