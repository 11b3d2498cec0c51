"""Conversations to train on: one dataset in every layout, joining, splits, fingerprints, memory, bad records."""

from __future__ import annotations

import io
import json
import logging
import pickle
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from perception_encoder.conversation.media import open_part
from perception_encoder.data import conversations
from perception_encoder.data.conversation_records import Record
from perception_encoder.data.conversations import (
    Conversations,
    JsonLines,
    JsonList,
    ParquetRecords,
    ShardRecords,
    open_conversations,
)
from perception_encoder.errors import ConfigError, DataError, InputError, MediaDecodeError, MediaNotFoundError
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.media import resolve
from tests.clips import clip, number_of
from tests.data.tars import image_bytes, write_file, write_tar

QUESTIONS = {
    "cups.png": [("How many cups?", "2"), ("What colour are they?", "They are red,\nboth.")],
    "ö/dög.png": [("Was ist das?", "Ein Hünd, “good”.")],
}
IMAGES = {name: image_bytes(number) for number, name in enumerate(QUESTIONS, 40)}


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]


QA = turns("Q", "A")
GOOD = {"image": "a.png", "conversations": QA}


def write_images(directory: Path) -> None:
    for name, content in IMAGES.items():
        write_file(directory / name, content)


def write_text(path: Path, text: str) -> Path:
    return write_file(path, text.encode())


def write_lines(path: Path, records: list[Any]) -> Path:
    return write_text(path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in records))


def llava(name: str, media: str = "image") -> dict[str, Any]:
    turns: list[dict[str, str]] = []
    for question, answer in QUESTIONS[name]:
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return {"id": Path(name).stem, media: name if media == "image" else [name], "conversations": turns}


def chat(name: str, parts: bool) -> dict[str, Any]:
    record = llava(name)
    messages = [
        {"role": "user" if item["from"] == "human" else "assistant", "content": item["value"]}
        for item in record.pop("conversations")
    ]
    if parts:
        text = messages[0]["content"].removeprefix("<image>\n")
        messages[0]["content"] = [{"type": "image"}, {"type": "text", "text": text}]
    return {**record, "messages": messages}


def inside(name: str) -> dict[str, Any]:
    """An image in a cell."""
    return {**chat(name, False), "image": None, "images": [{"bytes": IMAGES[name], "path": None}]}


def write_parquet(path: Path, records: list[dict[str, Any]], group: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=group)
    return path


def write_shard(path: Path) -> Path:
    members = {}
    for name in QUESTIONS:
        record = {key: value for key, value in llava(name).items() if key != "image"}
        members |= {f"{Path(name).stem}.png": IMAGES[name], f"{Path(name).stem}.json": json.dumps(record).encode()}
    return write_tar(path, members)


def both(form: Callable[..., dict[str, Any]], *options: Any) -> list[dict[str, Any]]:
    return [form(name, *options) for name in QUESTIONS]


WRITERS: dict[str, Callable[[Path], Path]] = {
    "LLaVA's lines": lambda d: write_lines(d / "a.jsonl", both(llava)),
    "LLaVA's list": lambda d: write_text(d / "a.json", "\ufeff" + json.dumps(both(llava), indent=2)),
    "messages": lambda d: write_lines(d / "a.jsonl", both(chat, False)),
    "parts": lambda d: write_lines(d / "a.jsonl", both(chat, True)),
    "images in cells": lambda d: write_parquet(d / "data" / "train-00000-of-00001.parquet", both(inside)).parent.parent,
    "Parquet of LLaVA": lambda d: write_parquet(d / "a.parquet", both(llava)),
    "Parquet of messages": lambda d: write_parquet(d / "a.parquet", both(chat, False), 2),
    "shards": lambda d: write_shard(d / "train" / "00000.tar").parent.parent,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_layout_gives_the_same_samples(write: Callable[[Path], Path], tmp_path: Path) -> None:
    write_images(tmp_path)
    data = open_conversations(write(tmp_path))
    assert len(data) == 2
    assert [sample.key for sample in data] == ["cups", "dög"]
    assert [sample.turns for sample in data] == [
        (
            ("user", "<image>How many cups?"),
            ("assistant", "2"),
            ("user", "What colour are they?"),
            ("assistant", "They are red,\nboth."),
        ),
        (("user", "<image>Was ist das?"), ("assistant", "Ein Hünd, “good”.")),
    ]
    for sample, content in zip(data, IMAGES.values(), strict=True):
        first, *others = sample.messages()
        image, text = first.content
        assert isinstance(image, Image.Image) and image.getpixel((0, 0)) == Image.open(io.BytesIO(content)).getpixel(
            (0, 0)
        )
        assert [text, *(part for other in others for part in other.content)] == [
            text.removeprefix("<image>") for _, text in sample.turns
        ]
    assert data[-1] == data[1] and pickle.loads(pickle.dumps(data))[0] == data[0]
    with pytest.raises(IndexError):
        data[2]


def test_images_in_cells(tmp_path: Path) -> None:
    cells: list[dict[str, Any]] = [
        {"image": {"bytes": image_bytes(n), "path": "a.png"}, "conversations": turns(f"Q{n}", "A")} for n in range(5)
    ]
    cells.append({"image": None, "conversations": turns("Without an image?", "yes")})
    data = open_conversations(write_parquet(tmp_path / "train-0.parquet", cells, 2).parent)
    assert [sample.turns[0] for sample in data][4:] == [("user", "<image>Q4"), ("user", "Without an image?")]
    for number in (4, 0, 3):
        image = data[number].messages()[0].content[0]
        assert isinstance(image, Image.Image) and image.getpixel((0, 0))[0] == number
    assert data.sizes == [2, 2, 2]
    assert data[3].key == "train-0.parquet:4"
    table = pa.table({"images": [[image_bytes(1), image_bytes(2)]], "image": [image_bytes(3)], "conversations": [QA]})
    pq.write_table(table, tmp_path / "a.parquet")
    *images, text = open_conversations(tmp_path / "a.parquet")[0].messages()[0].content
    assert [image.getpixel((0, 0))[0] for image in images] == [3, 1, 2] and text == "Q"


def test_videos(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip(30))
    records = [
        {"video": "a.mp4", "conversations": turns("<image>\nWhat?", "A clip.")},  # as LLaVA-Video writes it
        {"videos": ["a.mp4"], "conversations": turns("What?", "A clip.")},
    ]
    for sample in open_conversations(write_lines(tmp_path / "a.jsonl", records)):
        assert sample.turns == (("user", "<video>What?"), ("assistant", "A clip."))
        frames, text = sample.messages(frames=4)[0].content
        assert isinstance(frames, VideoFrames) and text == "What?"
        assert [number_of(image) for image in frames.images] == [0, 10, 19, 29]
    (tmp_path / "a.mp4").write_bytes(clip(150, rate=25))  # six seconds
    trained = open_conversations(tmp_path / "a.jsonl")[1].messages(frames=4)[0].media[0]
    asked = open_part(resolve(tmp_path / "a.mp4", "a"), 4)
    assert isinstance(trained, VideoFrames) and isinstance(asked, VideoFrames)
    assert trained.times == asked.times == [0, 2, 3, 5], "trained on by the frames that it is asked about"


def many(path: Path, count: int) -> Path:
    line = '{"id": %d, "image": "%d.png", "conversations": ' + json.dumps(turns("<image>\nQ", "A")) + "}\n"
    with path.open("w") as file:
        file.writelines(line % (number, number // 2) for number in range(count))
    return path


def test_only_positions_are_in_memory(tmp_path: Path) -> None:
    count = 40_000
    path = many(tmp_path / "many.jsonl", count)
    tracemalloc.start()
    try:
        data = open_conversations(path)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) == count and data[34_567].key == "34567"
    assert held < 36 * count  # a parsed line takes more than a thousand bytes
    assert peak < 12e6


def test_a_part_is_held_out(tmp_path: Path) -> None:
    data = open_conversations(many(tmp_path / "many.jsonl", 2000))
    train, validation = data.split(0.2)
    names = [{sample.media[0].name for sample in part} for part in (train, validation)]
    assert len(train) + len(validation) == 2000 and 300 < len(validation) < 500
    assert not names[0] & names[1]
    assert {sample.key for sample in data.split(0.1)[1]} < {sample.key for sample in validation}
    assert len({data.fingerprint, train.fingerprint, validation.fingerprint}) == 3
    more = open_conversations(many(tmp_path / "more.jsonl", 3000)).split(0.2)[1]
    assert [sample.key for sample in more if int(sample.key) < 2000] == [sample.key for sample in validation]
    assert sorted(names[1])[:3] == ["103.png", "105.png", "109.png"]  # the hash is fixed
    for share in (0.0, 1.0):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            data.split(share)


def test_the_fingerprint_is_of_names_sizes_and_content(tmp_path: Path) -> None:
    def write(name: str, answer: str, media: str = "a.png") -> Conversations:
        return open_conversations(write_lines(tmp_path / name, [{"image": media, "conversations": turns("Q", answer)}]))

    one = write("1/a.jsonl", "1").fingerprint
    assert write("2/a.jsonl", "1").fingerprint == one
    assert one not in {write("2/b.jsonl", "1").fingerprint, write("2/a.jsonl", "2").fingerprint}
    assert write("2/a.jsonl", "1", "b.png").fingerprint != one


# fmt: off
BAD: dict[str, Any] = {
    "is not JSON: ": '{"image": "a.png", "conv',
    "is not JSON: 'utf-8' codec can't decode": b'{"messages": "\xff"}',
    "has none of the fields conversations, messages": {"image": "a.png"},
    r"`conversations` is \[\]; it must be a list of objects": {"conversations": []},
    "turn 1 has the role 'bing'; known: human, user, gpt, assistant, system":
        {"conversations": [{"from": "bing", "value": "Q"}]},
    "turn 1 has a part of type 'audio'; known: text, image, image_url, video, video_url":
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
    "the text of turn 2 is 7; it must be a string": {"conversations": turns("Q", 7)},  # type: ignore[arg-type]
    "the text of turn 1 is .* which is not Unicode text": '{"messages": [{"role": "user", "content": "\\ud83d"}]}',
    "has placeholders 1 <image> and 0 <video> for 2 images and 0 videos; each image and video needs one":
        {"images": ["a.png", "b.png"], "conversations": turns("<image>\nQ", "A")},
    "1 <image> and 0 <video> for 0 im": {"conversations": turns("<image>\nQ", "A")},
    "turn 2 of the assistant holds <image>; only the user's may":
        {"image": "a.png", "conversations": turns("Q", "<image>")},
    "turn 3, the last one, has no answer": {"conversations": turns("Q", "A", "Q")},
    "turn 2 is of the user, but the question before it has no answer":
        {"conversations": [*turns("Q"), *turns("Q", "A")]},
    "turn 2 is of the system, but the question before it has no answer":
        {"messages": [{"role": "user", "content": "Q"}, {"role": "system", "content": "S"}]},
    "turn 2 of the assistant is empty": {"conversations": turns("Q", " \n")},
    r"the path '\.\./a\.png' leaves the directory": {"image": "../a.png", "conversations": QA},
    r"the path '/etc/a\.png' leaves the dir": {"image": "/etc/a.png", "conversations": QA},
    "image 1 is the URL 'https://x.org/a.png'": {"image": "https://x.org/a.png", "conversations": QA},
    "image 1 is 5; it must be a path": {"image": 5, "conversations": QA},
}
# fmt: on


@pytest.mark.parametrize("reason", BAD)
def test_the_first_bad_line_is_named_or_left_out(reason: str, tmp_path: Path, caplog) -> None:
    bad = BAD[reason]
    content = bad if isinstance(bad, bytes) else (bad if isinstance(bad, str) else json.dumps(bad)).encode()
    good = json.dumps(GOOD).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good, b"", content, good, content]))
    with pytest.raises(DataError, match=rf"a\.jsonl:3: .*{reason}") as caught:
        open_conversations(path)
    assert len(str(caught.value).splitlines()) == 1
    data = open_conversations(path, skip_bad=True)
    assert [sample.where for sample in data] == [f"{path}:1", f"{path}:4"] and data.bad == 2
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == [
        f"left out {path}:3",
        f"left out {path}:5",
        f"{path}",
    ]


def test_five_bad_lines_are_named_and_all_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{}, GOOD, *[{}] * 30])
    with caplog.at_level(logging.WARNING):
        data = open_conversations(path, skip_bad=True)
    assert (len(data), data.bad) == (1, 31)
    assert [f"a.jsonl:{n}:" in item for n, item in zip((1, 3, 4, 5, 6), caplog.messages[:5], strict=True)] == [True] * 5
    assert caplog.messages[5:] == [f"{path}: left out 31 bad samples of 32"]
    with pytest.raises(DataError, match="has no valid conversation, but 2 bad"):
        open_conversations(write_lines(tmp_path / "b.jsonl", [{}, {}]), skip_bad=True)


def test_media_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "damaged.png").write_bytes(image_bytes(1)[:50])
    (tmp_path / "text.mp4").write_text("no video")
    table = [
        {"id": 7, "image": "missing.png", "conversations": QA},
        {"image": "damaged.png", "conversations": QA},
        {"video": "text.mp4", "conversations": QA},
    ]
    path = write_lines(tmp_path / "a.jsonl", table)
    data = open_conversations(path)
    with pytest.raises(MediaNotFoundError, match=r"a\.jsonl:1 \(7\): missing\.png"):
        data[0].messages()
    with pytest.raises(MediaDecodeError, match=r"a\.jsonl:2: damaged\.png"):
        data[1].messages()
    with pytest.raises(MediaDecodeError, match=r"a\.jsonl:3: text\.mp4: "):
        data[2].messages()
    cells = [{"image": {"bytes": content, "path": None}, "conversations": QA} for content in (b"?", None)]
    inside = open_conversations(write_parquet(tmp_path / "b.parquet", cells))
    with pytest.raises(MediaDecodeError, match=r"b\.parquet:1: image 1: is not an image"):
        inside[0].messages()
    with pytest.raises(MediaDecodeError, match=r"b\.parquet:2: image 1: .* has no image"):
        inside[1].messages()


def test_a_file_that_changes(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [GOOD, GOOD])
    data = open_conversations(path)
    path.write_text("{}\n")
    with pytest.raises(InputError, match=r"a\.jsonl:1: the file has changed"):
        data[0]
    path.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl:1: cannot be read"):
        data[0]


def test_which_files_of_a_directory_are_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Parquet files and no tars"):
        open_conversations(tmp_path)
    with pytest.raises(DataError, match=r"nothing\.jsonl does not exist"):
        open_conversations(tmp_path / "nothing.jsonl")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"a\.txt is not .*; known: \.jsonl"):
        open_conversations(tmp_path / "a.txt")
    for split in ("train", "test", "validation"):
        row = {"conversations": turns(split, "A")}
        write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", [row])
    assert [sample.turns[0][1] for sample in open_conversations(tmp_path)] == ["train"]
    assert len(open_conversations(tmp_path / "data" / "test-00000-of-00001.parquet")) == 1


def objects(seed: int) -> list[dict]:
    draw = random.Random(seed)
    return [{"id": n, "text": "".join(draw.choices('aé€😀"\\\n[]{}, ', k=draw.randint(0, 9)))} for n in range(30)]


@pytest.mark.parametrize("seed", range(4))
def test_records_are_found_by_their_bytes(seed: int, tmp_path: Path) -> None:
    expected, escaped = objects(seed), seed % 2 == 0
    lines = [json.dumps(item, ensure_ascii=escaped) for item in expected]
    mark, end = "\ufeff" * (seed % 3 == 0), "\n" * (seed < 2)
    (tmp_path / "a.jsonl").write_text(mark + "\r\n\n".join(lines) + end, encoding="utf-8", newline="")
    file = JsonLines(tmp_path / "a.jsonl")
    scanned = list(file.scan())
    assert [record.fields for _, record in scanned if isinstance(record, Record)] == expected
    for number in (29, 0, 13):
        row, record = scanned[number]
        assert file.read(row) == record
        assert record.where == f"{tmp_path}/a.jsonl:{2 * number + 1}" and record.key == f"a.jsonl:{2 * number + 1}"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no table PAR1")
    (tmp_path / "a.tar").write_bytes(b"no tar")
    (tmp_path / "cut.json").write_text("[1, 2")
    (tmp_path / "lines.json").write_text("{}")
    (tmp_path / "a.json").write_text('\ufeff[{"id": 1}, 2]')
    (_, record), (_, error) = JsonList(tmp_path / "a.json").scan()
    assert isinstance(record, Record) and (record.fields, record.key) == ({"id": 1}, "a.json[0]")
    assert str(error) == f"{tmp_path}/a.json[1]: is not a JSON object"
    write_tar(tmp_path / "b.tar", {"a.png": image_bytes(1), "a.txt": b"no JSON"})
    for kind, name, reason in (
        (ParquetRecords, "a.parquet", "cannot be read"),
        (ShardRecords, "a.tar", "cannot be read"),
        (ShardRecords, "b.tar", r"has no samples with an image or video and a \.json"),
        (JsonLines, "none.jsonl", "cannot be read: No such file"),
        (JsonList, "cut.json", "cannot be read as JSON"),
        (JsonList, "lines.json", "is not a JSON list; JSON in lines needs the suffix"),
    ):
        with pytest.raises(DataError, match=rf"{name}:? {reason}"):
            list(kind(tmp_path / name).scan())


def test_a_shard_with_bad_samples_and_samples_of_another_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Videos among images were left out without a word."""
    members: dict[str, bytes] = {}
    for key, content in (
        ("a", b"{"),
        ("b", b"{}"),
        ("c", b'{"questions": 1}'),
        ("d", json.dumps({"conversations": QA}).encode()),
    ):
        members |= {f"{key}.png": image_bytes(1), f"{key}.json": content}
    members |= {"e.mp4": b"video", "e.json": b"{}", "f.png": image_bytes(2)}
    *bad, (row, record) = ShardRecords(write_tar(tmp_path / "a.tar", members)).scan()
    assert "a.tar: left out 2 samples without image and .json" in caplog.text
    assert "a.tar/a: is not JSON: Expecting property name enclosed in double quotes" in str(bad[0][1])
    assert [str(error) for _, error in bad[1:]] == [
        f"{tmp_path}/a.tar/{key}: its .json has no conversation; add one of conversations, messages" for key in "bc"
    ]
    assert isinstance(record, Record) and record.key == "d" and row == 3


def test_parquet_reads_no_images_but_those_that_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [{"image": {"bytes": bytes([n]), "path": None}, "conversations": QA, "extra": "x"} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(cells), tmp_path / "a.parquet", row_group_size=3)
    columns, read = [], pq.ParquetFile.read_row_group

    def count(self, group, **options):
        columns.append((group, options["columns"]))
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", count)
    file = ParquetRecords(tmp_path / "a.parquet")
    records = [record for _, record in file.scan()]
    assert columns == [(0, ["image.path", "conversations"]), (1, ["image.path", "conversations"])]
    assert records[4].fields["image"].read() == b"\x04" and columns[2:] == [(1, ["image"])]
    assert file.edges.tolist() == [0, 3, 6]
    (tmp_path / "a.parquet").unlink()
    conversations._read_group.cache_clear()
    with pytest.raises(InputError, match=r"a\.parquet:5: cannot be read"):
        file.read(4)
