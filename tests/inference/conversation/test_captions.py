"""Captions of many items: order, failures in their place, and the files that a run resumes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, OutputError
from perception_encoder.inference.conversation.captions import CaptionFile, CaptionRow, caption_items
from perception_encoder.inference.listing import Item, list_items
from perception_encoder.preprocess.conversation import Message, Reply, Sampling


class Widths:
    """A `Generator` that tells an image's width; wide ones fill its context. It notes the sizes of its batches."""

    name = "widths"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        self.batches.append(len(conversations))
        widths = [each[0].media[0].width for each in conversations]
        if max(widths, default=0) > 50:
            raise ConfigError("the images fill the context")
        return [Reply(f" {width} px\n", 1, 1, True) for width in widths]


def images(directory: Path, *widths: int) -> list[Item]:
    for number, width in enumerate(widths):
        if width:
            Image.new("RGB", (width, 4)).save(directory / f"{number}.png")
        else:
            (directory / f"{number}.png").write_bytes(b"")
    return list(list_items([directory]))


def row(identity: str, **fields: object) -> CaptionRow:
    values = {
        "path": identity,
        "start": None,
        "end": None,
        "caption": "c",
        "finished": True,
        "model": "m",
        "prompt": "p",
    }
    return CaptionRow(id=identity, **{**values, **fields})


def test_captions_are_in_order_with_failures_in_their_place(tmp_path: Path) -> None:
    model = Widths()
    batches = list(caption_items(model, images(tmp_path, 10, 0, 30, 60, 20), "p", batch_size=3))
    assert [len(batch) for batch in batches] == [3, 2]
    results = [result for batch in batches for result in batch]
    assert [each if isinstance(each, InputError) else each.caption for each in results] == [
        "10 px",
        results[1],
        "30 px",
        results[3],
        "20 px",
    ]
    assert str(results[1]).endswith("1.png: is empty") and str(results[3]).endswith(
        "3.png: the images fill the context"
    )
    assert model.batches == [2, 2, 1, 1]  # the second batch does not fit, so its two are tried one by one
    assert results[0] == row(results[0].id, caption="10 px", model="widths")


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
    assert [each["id"] for each in rows] == ["a", "b", "c"] and rows[1]["end"] == 2.0
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
    with pytest.raises(OutputError, match="has other columns than captions have"):
        CaptionFile(tmp_path / "other.jsonl", "m", "", "p")
    with pytest.raises(ConfigError, match=r"must end in \.jsonl or \.parquet"):
        CaptionFile(tmp_path / "out.csv", "m", "", "p")
