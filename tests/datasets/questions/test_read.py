"""Every dataset is read by its name, from its own layout and from the hub's; damage is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from perception_encoder.datasets.questions.question import (
    Entry,
    choice_question,
    table_entries,
)
from perception_encoder.datasets.questions.read import POPE_PARTS, READERS, read_questions
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.formats.media_directory import Clip
from perception_encoder.formats.tables import TableImage
from tests.datasets.questions import layouts
from tests.datasets.questions.layouts import IMAGE, LAYOUTS, TABLES, vqav2, write_json, write_lines, write_table


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    questions = read_questions(name, tmp_path)
    assert len({item.id for item in questions}) == len(questions) >= 1
    for item in questions:
        assert item.answers or item.correct is not None or item.box
        assert all(not isinstance(media, Path) or media.is_file() for media in item.media)
        assert item.block


@pytest.mark.parametrize("name", TABLES)
def test_each_table_of_the_hub(name: str, tmp_path: Path) -> None:
    path, rows = TABLES[name]
    write_table(tmp_path / path, rows)
    for root in (tmp_path, (tmp_path / path).parent, tmp_path / path):
        questions = read_questions(name, root)
        assert len(questions) == sum(len(row["answer"]) if name == "refcoco" else 1 for row in rows)
        for item in questions:
            (image,) = item.media
            assert isinstance(image, TableImage) and image.read() == IMAGE


@pytest.mark.parametrize("name", READERS)
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no |is not a directory"):
        read_questions(name, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty.* has no "):
        read_questions(name, tmp_path / "empty")


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("damage", ["cut", "answers", "type"])
def test_damaged_annotations_are_errors_with_the_file(name: str, damage: str, tmp_path: Path) -> None:
    """Cut a file off, take all answers away, or replace a field by a number."""
    LAYOUTS[name](tmp_path)
    for path in sorted(tmp_path.rglob("*.json")):
        text = path.read_text()
        if damage == "cut":
            damaged = text[: len(text) * 2 // 3]
        elif damage == "answers":
            damaged = text
            for field in ("answers", "label", "caption", "answer", "correctAnswer", "bbox"):
                damaged = damaged.replace(f'"{field}": ', f'"was_{field}": ')
        else:
            damaged = text
            for field in ("question_id", "questionId", "image_id", "imgname", "video", "answerTexts", "id"):
                damaged = damaged.replace(f'"{field}": ', f'"{field}": {{}}, "was_{field}": ')
        path.write_text(damaged)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_questions(name, tmp_path)


def test_an_unknown_dataset_split_or_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown dataset 'vqa'; known: vqav2, okvqa"):
        read_questions("vqa", tmp_path)
    for name, split in (("pope", "val"), ("mvbench", "val"), ("ai2d", "val")):
        with pytest.raises(DataError, match=r"no (part|task|split) 'val'; known"):
            read_questions(name, tmp_path, split)


def test_ids_must_differ(tmp_path: Path) -> None:
    vqav2(tmp_path)
    path = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    value = json.loads(path.read_text())
    value["questions"].append(value["questions"][0])
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="2 questions have the id '42000'"):
        read_questions("vqav2", tmp_path)
    write_json(tmp_path / "deep" / path.name, {})
    with pytest.raises(DataError, match="several files"):
        read_questions("vqav2", tmp_path)


def test_answers_in_each_form() -> None:
    for value in ("cup", ["cup"], [{"answer": "cup"}]):
        assert Entry("x", {"answers": value}).answers("answers", "label") == ("cup",)
    assert Entry("x", {"label": ["a", ""]}).answers("answers", "label") == ("a", "")


@pytest.mark.parametrize("value", [None, [], "", [""], 3, ["a", 3], [{"a": "b"}], {"a": 1}])
def test_a_missing_answer(value: object) -> None:
    with pytest.raises(DataError, match=r"a\.json: 3: `answers` is .*; a question needs at least one answer"):
        Entry("a.json: 3", {"answers": value}).answers("answers")


def choice(**fields: object):
    return choice_question(
        Entry("x", fields), identity="1", question="?", media=(), choices="options", answer="answer", block="b"
    )


@pytest.mark.parametrize("answer", [1, "1", "root"])
def test_a_choice_by_index_and_text(answer: int | str) -> None:
    question = choice(options=["leaf", "root"], answer=answer)
    assert (question.choices, question.correct) == (("leaf", "root"), 1)
    assert choice(options=["1", "0"], answer="0").correct == 1  # the text counts before the index


@pytest.mark.parametrize("answer", [2, -1, "stem", None, True, "²"])
def test_an_answer_that_is_no_choice(answer: object) -> None:
    with pytest.raises(DataError, match=r"x: `answer` is .*, which is not among the choices"):
        choice(options=["leaf", "root"], answer=answer)


def test_tables_of_a_split(tmp_path: Path) -> None:
    for number in range(2):
        write_table(tmp_path / "data" / f"validation-0000{number}-of-00002.parquet", [{"a": number}])
    write_table(tmp_path / "data" / "test-00000-of-00001.parquet", [{"a": 5}])
    assert [entry.fields for entry in table_entries(tmp_path, "val")] == [{"a": 0}, {"a": 1}]
    assert [entry.fields for entry in table_entries(tmp_path, "test")] == [{"a": 5}]
    assert table_entries(tmp_path, "train") == []
    write_table(tmp_path / "other" / "test-00000-of-00001.parquet", [{"a": 6}])
    assert [entry.fields for entry in table_entries(tmp_path, "test", "other")] == [{"a": 6}]
    with pytest.raises(DataError, match=r"has tables of 'test' in .*data, .*other"):
        table_entries(tmp_path, "test")


def test_diagrams(tmp_path: Path) -> None:
    layouts.ai2d(tmp_path)
    first, labelled = read_questions("ai2d", tmp_path, "test")
    assert (first.question, first.choices, first.correct) == ("Which (0)?", ("leaf", "root", "stem"), 1)
    assert (first.media, first.block) == ((tmp_path / "images" / "0.png",), "0.png")
    assert labelled.media == (tmp_path / "abc_images" / "2.png",)  # letters stand for its labels
    (tmp_path / "abc_images" / "2.png").unlink()
    assert read_questions("ai2d", tmp_path, "test")[1].media == (tmp_path / "images" / "2.png",)


def test_diagrams_without_a_part(tmp_path: Path) -> None:
    layouts.ai2d(tmp_path)
    write_json(tmp_path / "questions" / "0.png.json", {"questions": [1]})
    with pytest.raises(DataError, match=r"0\.png\.json: `questions` is \[1\]; it must be an object"):
        read_questions("ai2d", tmp_path, "test")
    write_json(
        tmp_path / "questions" / "0.png.json", {"questions": {"Which?": {"questionId": "a", "answerTexts": ["x"]}}}
    )
    with pytest.raises(DataError, match=r"0\.png\.json: questions\['Which\?'\]: `correctAnswer` is missing"):
        read_questions("ai2d", tmp_path, "test")
    (tmp_path / "ai2d_test_ids.csv").write_text("77\n")
    with pytest.raises(DataError, match="holds no question of the split 'test'"):
        read_questions("ai2d", tmp_path, "test")
    (tmp_path / "ai2d_test_ids.csv").unlink()
    with pytest.raises(DataError, match=r"has no ai2d_test_ids\.csv"):
        read_questions("ai2d", tmp_path, "test")


def test_videos_of_one_name_in_two_tasks(tmp_path: Path) -> None:
    layouts.mvbench(tmp_path)
    whole, part, frames = read_questions("mvbench", tmp_path, "test")
    assert (whole.group, whole.id, whole.correct) == ("action_antonym", "action_antonym/0", 1)
    assert whole.media == (tmp_path / "video" / "ssv2_video" / "7.mp4",)
    assert part.media == (Clip(tmp_path / "video" / "star" / "Charades_v1_480" / "7.mp4", 1.5, 3.0),)
    assert [path.name for path in frames.media] == [f"{n:05}.jpg" for n in range(4, 10)]  # seconds 1 to 3, of 3 frames
    assert frames.frames and not whole.frames and whole.block != part.block
    assert [item.group for item in read_questions("mvbench", tmp_path, "action_sequence")] == ["action_sequence"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "It sinks."}, r"action_antonym.json: \[0\]: `answer` is 'It sinks.', which is not among"),
        ({"start": -1}, "`start` is -1; it must be a number of seconds"),
        ({"end": "x"}, "`end` is 'x'"),
        ({"candidates": "a"}, "`candidates` is 'a'; it must be a list of strings"),
    ],
)
def test_bad_entries_of_videos(tmp_path: Path, change: dict[str, object], message: str) -> None:
    row = {"video": "7.mp4", "question": "?", "candidates": ["a", "b"], "answer": "a"}
    write_json(tmp_path / "json" / "action_antonym.json", [{**row, **change}])
    with pytest.raises(DataError, match=message):
        read_questions("mvbench", tmp_path, "test")


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


@pytest.mark.parametrize("protocol", [0, pickle.DEFAULT_PROTOCOL])
def test_phrases_of_a_pickle(tmp_path: Path, protocol: int) -> None:
    layouts.refcoco(tmp_path, lambda value: pickle.dumps(value, protocol))
    first, second = read_questions("refcoco", tmp_path, "val")
    assert (first.id, first.question, second.question) == ("0", "the cup 0", "the cup 1")
    assert first.box == second.box == (6, 4, 36, 24.5)
    assert first.media == (tmp_path / "train2014" / "COCO_train2014_000000581857.jpg",)
    assert [question.id for question in read_questions("refcoco", tmp_path, "testA")] == ["10", "11"]


@pytest.mark.security
def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self):
            return Path.write_text, (tmp_path / "ran", "x")

    layouts.refcoco(tmp_path, lambda value: pickle.dumps([*value, Bad()]))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p cannot be read: it tries to load .*, which is not allowed"):
        read_questions("refcoco", tmp_path, "val")
    assert not (tmp_path / "ran").exists()


@pytest.mark.security
def test_a_cut_pickle(tmp_path: Path) -> None:
    layouts.refcoco(tmp_path, lambda value: pickle.dumps(value)[:100])
    with pytest.raises(DataError, match="cannot be read"):
        read_questions("refcoco", tmp_path, "val")


def test_phrases_of_the_hub(tmp_path: Path) -> None:
    write_table(tmp_path / layouts.TABLES["refcoco"][0], layouts.TABLES["refcoco"][1])
    first, second = read_questions("refcoco", tmp_path, "val")
    assert (first.id, first.question, second.id, second.question) == ("1/0", "the cup", "1/1", "red")
    assert (first.box, first.block) == ((6, 4, 36, 24), "a.jpg")


def test_objects_of_the_hub_that_two_authors_chose(tmp_path: Path) -> None:
    """The hub's val joins two splits, with some objects in both; two objects of an image are of one block."""
    path, (row,) = layouts.TABLES["refcoco"]
    rows = [{**row, "question_id": number, "file_name": f"COCO_train2014_000000144180_{number}.jpg"} for number in "56"]
    write_table(tmp_path / path, [*rows, rows[0]])
    found = read_questions("refcoco", tmp_path, "val")
    assert [question.id for question in found] == ["5/0", "5/1", "6/0", "6/1"]
    assert {question.block for question in found} == {"COCO_train2014_000000144180.jpg"}
    write_table(tmp_path / path, [*rows, {**rows[0], "bbox": [0.0, 0.0, 1.0, 1.0]}])
    with pytest.raises(DataError, match="2 questions have the id '5/0'"):
        read_questions("refcoco", tmp_path, "val")


def test_bad_entries_of_phrases(tmp_path: Path) -> None:
    layouts.refcoco(tmp_path)
    with pytest.raises(DataError, match="no phrase of the split 'test'; there are: testA, val"):
        read_questions("refcoco", tmp_path, "test")
    instances = tmp_path / "refcoco" / "instances.json"
    value = json.loads(instances.read_text())
    value["annotations"][0]["bbox"] = [1, 2, 0, 4]
    write_json(instances, value)
    with pytest.raises(
        DataError, match=r"annotations\[0\]: `bbox` is \[1, 2, 0, 4\]; it must be x, y, width and height"
    ):
        read_questions("refcoco", tmp_path, "val")
    write_json(instances, {**value, "annotations": []})
    with pytest.raises(DataError, match=r"refs\[0\]: image 581857 or object 100 is not in"):
        read_questions("refcoco", tmp_path, "val")
