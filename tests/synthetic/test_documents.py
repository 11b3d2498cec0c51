"""Documents by seed: words where the ink is, right answers, splits that share nothing, and datasets of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import OutputError
from synthetic.documents.canvas import Canvas
from synthetic.documents.document import KINDS, Document, document
from synthetic.documents.fonts import FAMILIES
from synthetic.documents.layouts.charts import COLOURS
from synthetic.documents.layouts.receipts import COUNTED
from synthetic.documents.looks import LOOKS
from synthetic.documents.production import DocumentsConfig, image_path, write_documents
from synthetic.documents.vocabulary import held_out_words
from tests.conftest import ROOT


@cache
def draw_many(kind: str, split: str = "train", count: int = 40) -> list[Document]:
    """Clean documents of seeds 0, 1, …"""
    return [document(seed, kind, split, 320, look="clean") for seed in range(count)]


def printed(drawn: Document, box: tuple[int, int, int, int]) -> str:
    """The words whose boxes lie inside a box, in their order."""
    inside = [
        word.text
        for word in drawn.words
        if word.box[0] >= box[0] and word.box[1] >= box[1] and word.box[2] <= box[2] and word.box[3] <= box[3]
    ]
    return " ".join(inside)


def summary(drawn: Document) -> str:
    rest = repr((drawn.kind, drawn.look, drawn.content, drawn.words, drawn.questions))
    return hashlib.sha256(drawn.image.tobytes() + rest.encode()).hexdigest()


def test_a_seed_gives_the_same_document_in_another_process() -> None:
    code = (
        "import tests.synthetic.test_documents as t; from synthetic.documents.document import document;"
        "print(*(t.summary(document((3, number), size=256)) for number in range(8)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for number in reversed(range(4)):  # what was drawn before does not matter
        document(number)
    summaries = [summary(document((3, number), size=256)) for number in range(8)]
    assert run.stdout.split() == summaries and len(set(summaries)) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_ink_of_each_word_is_inside_its_box(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The difference to the same document without words."""
    render = Canvas.render
    for look in LOOKS:
        full = document(0, kind, look=look, size=(384, 320))
        with monkeypatch.context() as patch:
            patch.setattr(Canvas, "render", lambda canvas: render(canvas, with_words=False))
            empty = document(0, kind, look=look, size=(384, 320))
        assert full.image.size == (384, 320) and full.image.mode == "RGB"
        ink = np.abs(np.asarray(full.image, dtype=int) - np.asarray(empty.image)).max(-1)
        blurred = look in ("print", "photo")  # blur and the blocks of a JPEG carry a little ink over the edges
        ink = ink > (60 if blurred else 8)
        outside = ink.copy()
        for _, (left, top, right, bottom) in full.words:
            assert 0 <= left < right <= 384 and 0 <= top < bottom <= 320
            assert ink[top:bottom, left:right].any()
            edge = 2 if blurred else 0
            outside[max(0, top - edge) : bottom + edge, max(0, left - edge) : right + edge] = False
        assert not outside.any()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_with_a_box_is_printed_there(kind: str, split: str) -> None:
    for drawn in draw_many(kind, split, 15):
        assert len(drawn.questions) >= 3
        assert len({question for question, *_ in drawn.questions}) == len(drawn.questions)
        for question, answer, box, _ in drawn.questions:
            assert question.endswith("?") and 0 < len(answer) < 60
            if box is not None:
                assert printed(drawn, box) == answer, question


@pytest.mark.parametrize("kind", KINDS)
def test_test_shares_no_layout_font_or_held_out_word_with_train(kind: str) -> None:
    drawn = {split: draw_many(kind, split) for split in ("train", "val", "test")}
    layouts = {split: {item.layout for item in documents} for split, documents in drawn.items()}
    fonts = {split: {name for item in documents for name in item.fonts} for split, documents in drawn.items()}
    texts = {
        split: " ".join(word.text for item in documents for word in item.words).lower().split()
        for split, documents in drawn.items()
    }
    held_out = held_out_words()
    for split in ("train", "val"):
        assert not layouts[split] & layouts["test"] and not fonts[split] & fonts["test"]
        assert not held_out & set(texts[split])
    assert layouts["train"] == layouts["val"] and len(layouts["train"]) >= 3
    assert held_out & set(texts["test"])
    assert fonts["test"] <= {family.name for family in FAMILIES if family.test}


KINDS = ("bar chart", "line chart")


def answer_to(question: str, task: str, content: dict) -> str | None:
    """The answer by looking it up in the series; None for questions that only one kind has."""
    series, categories = content["series"], content["categories"]
    name = next((curve for curve in series if len(series) > 1 and f" of {curve}" in question), next(iter(series)))
    values = dict(zip(categories, series[name], strict=True))
    if task == "value":
        return str(values[re.search(r"(?:in|of) ([^ ]+(?: [^ ]+)?)\?", question.replace(f" of {name}", ""))[1]])
    if task == "compare":
        return (max if "highest" in question else min)(values, key=values.get)
    if task == "difference":
        return str(max(values.values()) - min(values.values()))
    if match := re.search(r"larger in (.+) than in (.+)\?", question):
        return "yes" if values[match[1]] > values[match[2]] else "no"
    if match := re.search(r"rise from (.+) to (.+)\?", question):
        return "yes" if values[match[1]] < values[match[2]] else "no"
    if match := re.search(r"What colour is (.+)\?", question):
        return content["colours"][match[1]]
    if match := re.search(r"What does (.+) stand for\?", question):
        return {colour: item for item, colour in content["colours"].items()}[match[1]]
    return {"title": content["title"], "axis": content["unit"]}.get(task)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_series(kind: str, split: str) -> None:
    seen = set()
    for drawn in draw_many(kind, split):
        assert set(drawn.content["colours"].values()) <= set(COLOURS)
        printed = " ".join(word.text for word in drawn.words)
        assert all(text in printed for text in (drawn.content["title"], *drawn.content["categories"]))
        for question, answer, box, task in drawn.questions:
            if (expected := answer_to(question, task, drawn.content)) is not None:
                assert answer == expected, question
                seen.add(task)
            if task in ("title", "axis", "compare", "legend"):
                assert box is not None
    several = {"colour", "legend"} if split == "train" else set()
    assert seen == {"title", "axis", "value", "compare", "difference", "yes_no", *several}


def cents(text: str) -> int:
    return round(float(text.lstrip("$€£")) * 100)


@pytest.mark.parametrize("split", ["train", "test"])
def test_sums_add_up(split: str) -> None:
    taxed = 0
    for drawn in draw_many("receipt", split):
        content = drawn.content
        items = sum(cents(item["price"]) for item in content["items"])
        if "tax" in content:
            taxed += 1
            assert cents(content["subtotal"]) == items
            items += cents(content["tax"])
        assert cents(content["total"]) == items
        printed = " ".join(word.text for word in drawn.words)
        for text in (
            content["shop"],
            content["date"],
            content["total"],
            *(entry["name"] for entry in content["items"]),
        ):
            assert text in printed
        assert all(("quantity" in item) == (drawn.layout in COUNTED) for item in content["items"])
    assert 0 < taxed < len(draw_many("receipt", split))


CONFIG = DocumentsConfig(count=20, size=192, seed=4)


def read_all(directory: Path) -> dict[str, bytes]:
    names = (path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*")) if path.is_file())
    return {name: (directory / name).read_bytes() for name in names}


def rows_of(directory: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (directory / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = write_documents(tmp_path_factory.mktemp("documents"), CONFIG, jobs=1)
    assert (written.documents, written.before) == (20, 0)
    return written.directory


def test_rows_are_llavas_and_agree_with_the_words(directory: Path) -> None:
    conversations, words = rows_of(directory, "conversations.jsonl"), rows_of(directory, "words.jsonl")
    assert len(conversations) == len(words) == 20 and len({row["id"] for row in words}) == 20
    for number, (talk, facts) in enumerate(zip(conversations, words, strict=True)):
        assert talk.keys() == {"id", "image", "conversations"}
        assert talk["id"] == facts["id"] and talk["image"] == facts["image"] == image_path(number)
        turns = talk["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert [number for number, turn in enumerate(turns) if "<image>" in turn["value"]] == [0]
        asked = [
            (turn["value"].removeprefix("<image>\n"), answer["value"])
            for turn, answer in zip(turns[::2], turns[1::2], strict=True)
        ]
        assert asked == [(question["question"], question["answer"]) for question in facts["questions"]]
        drawn = CONFIG.draw(number)
        assert [(word["text"], tuple(word["box"])) for word in facts["words"]] == drawn.words
        assert facts["content"] == json.loads(json.dumps(drawn.content)) and facts["layout"] == drawn.layout
        with Image.open(directory / talk["image"]) as image:
            assert image.size == (facts["width"], facts["height"]) == (192, 192)


@pytest.mark.usefixtures("warm_pools")
def test_bytes_do_not_depend_on_processes(directory: Path, tmp_path: Path) -> None:
    write_documents(tmp_path, CONFIG, jobs=2)
    assert read_all(tmp_path / "train") == read_all(directory)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_goes_on(directory: Path, tmp_path: Path) -> None:
    arguments = ["-o", tmp_path, "--count", 20, "--size", 192, "--seed", 4, "--jobs", 1]
    command = [sys.executable, "-m", "synthetic.documents", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        table = tmp_path / "train" / "words.jsonl"
        deadline = time.monotonic() + 60
        while not table.exists() or not table.stat().st_size:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert 0 < write_documents(tmp_path, CONFIG, jobs=1).before <= 20
    assert read_all(tmp_path / "train") == read_all(directory)


def test_other_settings_and_other_files_are_left_alone(directory: Path, tmp_path: Path) -> None:
    before = read_all(directory)
    with pytest.raises(OutputError, match="documents of other settings"):
        write_documents(directory.parent, DocumentsConfig(**{**vars(CONFIG), "seed": 5}), jobs=1)
    assert read_all(directory) == before
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="is not empty and has no documents"):
        write_documents(tmp_path, CONFIG, jobs=1)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="could not be written"):
        write_documents(tmp_path / "file", CONFIG, jobs=1)
