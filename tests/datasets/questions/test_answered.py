"""Questions with right answers, field by field."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.datasets.questions.read import POPE_PARTS, read_questions
from perception_encoder.errors import DataError
from tests.datasets.questions import layouts
from tests.datasets.questions.layouts import write_json, write_lines, write_table


def test_vqav2(tmp_path: Path) -> None:
    layouts.vqav2(tmp_path)
    layouts.vqav2(tmp_path, "")  # OK-VQA lies beside it
    first, second, third = read_questions("vqav2", tmp_path, "val")
    assert (first.id, first.question, first.block, third.block) == ("42000", "What is it (0)?", "42", "42")
    assert first.answers == ("cup",) * 7 + ("mug",) * 3
    assert second.media == (tmp_path / "val2014" / "COCO_val2014_000000000043.jpg",)
    assert read_questions("okvqa", tmp_path, "val")[0].id == "42000"


def test_a_question_without_annotation(tmp_path: Path) -> None:
    layouts.vqav2(tmp_path)
    write_json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": []})
    with pytest.raises(DataError, match=r"questions\[0\]: question 42000 has no answers in .*annotations.json"):
        read_questions("vqav2", tmp_path, "val")


def test_textvqa(tmp_path: Path) -> None:
    layouts.textvqa(tmp_path)
    first, _ = read_questions("textvqa", tmp_path, "val")
    assert (first.id, first.block, len(first.answers)) == ("34602", "003a8ae2ef43b901", 10)
    assert first.media == (tmp_path / "train_images" / "003a8ae2ef43b901.jpg",)


def test_documents(tmp_path: Path) -> None:
    layouts.docvqa(tmp_path)
    layouts.infovqa(tmp_path)
    first, _ = read_questions("docvqa", tmp_path, "val")
    assert (first.id, first.answers) == ("49153", ("12.50", "$12.50"))
    assert first.media == (tmp_path / "spdocvqa_images" / "xnbl0037_1.png",)
    (infographic,) = read_questions("infovqa", tmp_path, "val")
    assert infographic.media == (tmp_path / "images" / "3.jpeg",)


def test_charts(tmp_path: Path) -> None:
    layouts.chartqa(tmp_path)
    questions = read_questions("chartqa", tmp_path, "test")
    assert [question.id for question in questions] == ["human/0", "human/1", "augmented/0", "augmented/1"]
    assert (questions[0].answers, questions[0].group, questions[0].block) == (("14",), "human", "41.png")
    assert questions[0].media == (tmp_path / "ChartQA Dataset" / "test" / "png" / "41.png",)


@pytest.mark.parametrize(
    ("kind", "group"), [({"human_or_machine": 1}, "augmented"), ({"human_or_machine": 0}, "human")]
)
def test_the_other_table_of_charts(tmp_path: Path, kind: dict[str, int], group: str) -> None:
    write_table(tmp_path / "test-0.parquet", [{"query": "How many?", "label": ["3"], **kind}])
    (question,) = read_questions("chartqa", tmp_path, "test")
    assert (question.question, question.answers, question.group) == ("How many?", ("3",), group)
    write_table(tmp_path / "test-0.parquet", [{"query": "How many?", "label": ["3"], "type": "robot"}])
    with pytest.raises(DataError, match="the type 'robot' is unknown"):
        read_questions("chartqa", tmp_path, "test")


def test_pope(tmp_path: Path) -> None:
    layouts.pope(tmp_path)
    questions = read_questions("pope", tmp_path, "test")
    assert [question.id for question in questions] == [f"{part}/{n}" for part in POPE_PARTS for n in (1, 2)]
    assert [question.answers for question in questions[:2]] == [("yes",), ("no",)]
    assert [item.id for item in read_questions("pope", tmp_path, "popular")] == ["popular/1", "popular/2"]
    with pytest.raises(DataError, match="no part 'val'"):
        read_questions("pope", tmp_path, "val")


def test_a_part_of_the_hubs_pope(tmp_path: Path) -> None:
    write_table(tmp_path / layouts.TABLES["pope"][0], layouts.TABLES["pope"][1])
    assert [item.id for item in read_questions("pope", tmp_path, "popular")] == ["popular/1"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"coco_pope_random\.json:3 is not JSON"),
        ("[1]", r"coco_pope_random\.json:3 is not a JSON object"),
        ('{"question_id": 3, "image": "a.jpg", "text": "Is it?"}', r"random\.json:3: `label` is missing"),
        (
            '{"question_id": 3, "image": "a.jpg", "text": "Is it?", "label": "maybe"}',
            r"random\.json:3: the answer 'maybe'",
        ),
        ('{"question_id": 3, "text": "Is it?", "label": "yes"}', r"random\.json:3: `image` is missing"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    layouts.pope(tmp_path)
    with (tmp_path / "coco" / "coco_pope_random.json").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        read_questions("pope", tmp_path, "random")


def test_captions(tmp_path: Path) -> None:
    layouts.coco(tmp_path)
    first, _ = read_questions("coco", tmp_path, "val")
    assert (first.id, first.question) == ("COCO_val2014_000000000042.jpg", "")
    assert first.answers == ("A red cup 0.", "A red cup 2.")
    assert first.media == (tmp_path / "val2014" / "COCO_val2014_000000000042.jpg",)


def test_captions_in_karpathys_splits(tmp_path: Path) -> None:
    image = {"filepath": "val2014", "filename": "a.jpg", "sentences": [{"raw": "A cup."}]}
    images = [{**image, "split": "test"}, {**image, "filename": "b.jpg", "split": "val"}]
    write_json(tmp_path / "dataset_coco.json", {"images": images})
    (question,) = read_questions("coco", tmp_path, "test")
    assert (question.id, question.answers) == ("val2014/a.jpg", ("A cup.",))


def test_lines_of_any_suffix(tmp_path: Path) -> None:
    write_lines(tmp_path / "my_pope_random.jsonl", [{"question_id": 1, "image": "a.jpg", "text": "?", "label": "No"}])
    assert read_questions("pope", tmp_path, "random")[0].answers == ("no",)
