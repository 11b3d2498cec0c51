"""Every dataset is read by its name, from its own layout and from the hub's; damage is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_encoder.datasets.questions.question import (
    QuestionEntry,
    choice_question,
    table_entries,
)
from perception_encoder.datasets.questions.read import POPE_PARTS, READERS, read_questions
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation.language.tasks import TASKS
from perception_encoder.formats.media_directory import Clip
from perception_encoder.formats.tables import TableImage
from tests.data.tars import changing
from tests.datasets.questions import layouts
from tests.datasets.questions.layouts import (
    IMAGE,
    LAYOUTS,
    TABLES,
    refcoco,
    star,
    tgifqa,
    vqav2,
    write_image,
    write_json,
    write_lines,
    write_table,
)

PHOTO = "val2014/COCO_val2014_000000000042.jpg"


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
    with pytest.raises(ConfigError, match="unknown dataset 'vqa'"):
        read_questions("vqa", tmp_path)
    for name, split in (("pope", "val"), ("mvbench", "val"), ("ai2d", "val")):
        with pytest.raises(DataError, match=r"no (part|task|split) 'val'; known"):
            read_questions(name, tmp_path, split)


def test_ids_must_differ(tmp_path: Path) -> None:
    vqav2(tmp_path)
    path = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    with changing(path) as value:
        value["questions"].append(value["questions"][0])
    with pytest.raises(DataError, match="2 questions have the id '42000'"):
        read_questions("vqav2", tmp_path)
    write_json(tmp_path / "deep" / path.name, {})
    with pytest.raises(DataError, match="several files"):
        read_questions("vqav2", tmp_path)


def test_answers_in_each_form() -> None:
    for value in ("cup", ["cup"], [{"answer": "cup"}]):
        assert QuestionEntry("x", {"answers": value}).answers("answers", "label") == ("cup",)
    assert QuestionEntry("x", {"label": ["a", ""]}).answers("answers", "label") == ("a", "")
    for value in (None, [], "", [""], 3, ["a", 3], [{"a": "b"}], {"a": 1}):
        with pytest.raises(DataError, match=r"a\.json: 3: `answers` is"):
            QuestionEntry("a.json: 3", {"answers": value}).answers("answers")


def test_a_choice_by_index_and_text() -> None:
    def correct(answer: object, *options: str) -> int | None:
        entry = QuestionEntry("x", {"options": list(options), "answer": answer})
        return choice_question(entry, identity="1", question="?", media=(), choices="options", answer="answer").correct

    assert [correct(answer, "leaf", "root") for answer in (1, "1", "root")] == [1, 1, 1]
    assert correct("0", "1", "0") == 1  # the text counts before the index
    for answer in (2, -1, "stem", None, True, "²"):
        with pytest.raises(DataError, match=r"x: `answer` is .*, which is not"):
            correct(answer, "leaf", "root")


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
    for questions, message in (
        ([1], r"0\.png\.json: `questions` is \[1\]; it must be an object"),
        ({"Which?": {"questionId": "a", "answerTexts": ["x"]}}, r"questions\['Which\?'\]: `correctAnswer` is missing"),
    ):
        write_json(tmp_path / "questions" / "0.png.json", {"questions": questions})
        with pytest.raises(DataError, match=message):
            read_questions("ai2d", tmp_path, "test")
    (tmp_path / "ai2d_test_ids.csv").write_text("77\n")
    with pytest.raises(DataError, match="holds no question of the split 'test'"):
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


@pytest.mark.parametrize(
    ("name", "media", "expected"),
    [
        ("vqav2", PHOTO, {"id": "42000", "block": "42", "answers": ("cup",) * 7 + ("mug",) * 3}),
        ("okvqa", PHOTO, {"id": "42000"}),
        ("textvqa", "train_images/003a8ae2ef43b901.jpg", {"id": "34602", "block": "003a8ae2ef43b901"}),
        ("docvqa", "spdocvqa_images/xnbl0037_1.png", {"id": "49153", "answers": ("12.50", "$12.50")}),
        ("infovqa", "images/3.jpeg", {"answers": ("7",)}),
        ("chartqa", "ChartQA Dataset/test/png/41.png", {"id": "human/0", "answers": ("14",), "block": "41.png"}),
        ("pope", PHOTO, {"id": "random/1", "answers": ("yes",), "group": "random"}),
        ("coco", PHOTO, {"id": PHOTO[8:], "question": "", "answers": ("A red cup 0.", "A red cup 2.")}),
        ("refcoco", "train2014/COCO_train2014_000000581857.jpg", {"question": "the cup 0", "box": (6, 4, 36, 24.5)}),
    ],
)  # fmt: skip
def test_the_first_question_of_a_layout(name: str, media: str, expected: dict[str, object], tmp_path: Path) -> None:
    for layout in {name, "docvqa", "infovqa", "vqav2", "okvqa"}:  # others may lie beside it
        LAYOUTS[layout](tmp_path)
    first = read_questions(name, tmp_path)[0]
    assert first.media == (tmp_path / media,)
    assert {field: getattr(first, field) for field in expected} == expected


def test_captions_in_karpathys_splits(tmp_path: Path) -> None:
    image = {"filepath": "val2014", "filename": "a.jpg", "sentences": [{"raw": "A cup."}]}
    images = [{**image, "split": "test"}, {**image, "filename": "b.jpg", "split": "val"}]
    write_json(tmp_path / "dataset_coco.json", {"images": images})
    (question,) = read_questions("coco", tmp_path, "test")
    assert (question.id, question.answers) == ("val2014/a.jpg", ("A cup.",))


def test_a_question_without_annotation(tmp_path: Path) -> None:
    layouts.vqav2(tmp_path)
    write_json(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": []})
    with pytest.raises(DataError, match="question 42000 has no answers in"):
        read_questions("vqav2", tmp_path, "val")


def test_the_other_table_of_charts(tmp_path: Path) -> None:
    rows = [{"query": "How many?", "label": ["3"], "human_or_machine": kind} for kind in (1, 0)]
    write_table(tmp_path / "test-0.parquet", rows)
    questions = read_questions("chartqa", tmp_path, "test")
    assert [(item.question, item.answers, item.group) for item in questions] == [
        ("How many?", ("3",), "augmented"),
        ("How many?", ("3",), "human"),
    ]
    write_table(tmp_path / "test-0.parquet", [{"query": "How many?", "label": ["3"], "type": "robot"}])
    with pytest.raises(DataError, match="the type 'robot' is unknown"):
        read_questions("chartqa", tmp_path, "test")


def test_the_parts_of_pope(tmp_path: Path) -> None:
    layouts.pope(tmp_path)
    questions = read_questions("pope", tmp_path, "test")
    assert [question.id for question in questions] == [f"{part}/{n}" for part in POPE_PARTS for n in (1, 2)]
    assert [item.id for item in read_questions("pope", tmp_path, "popular")] == ["popular/1", "popular/2"]
    row = {"question_id": 1, "image": "a.jpg", "text": "?", "label": "No"}
    write_lines(tmp_path / "a" / "my_pope_random.jsonl", [row])
    assert read_questions("pope", tmp_path / "a", "random")[0].answers == ("no",)
    write_table(tmp_path / "hub" / TABLES["pope"][0], TABLES["pope"][1])
    assert [item.id for item in read_questions("pope", tmp_path / "hub", "popular")] == ["popular/1"]


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


@pytest.mark.parametrize("protocol", [0, pickle.DEFAULT_PROTOCOL])
def test_phrases_of_a_pickle(tmp_path: Path, protocol: int) -> None:
    layouts.refcoco(tmp_path, lambda value: pickle.dumps(value, protocol))
    found = read_questions("refcoco", tmp_path, "val")
    assert [(item.id, item.question, item.box) for item in found] == [
        (str(n), f"the cup {n}", (6, 4, 36, 24.5)) for n in (0, 1)
    ]
    assert [question.id for question in read_questions("refcoco", tmp_path, "testA")] == ["10", "11"]


@pytest.mark.security
def test_a_pickle_with_code_or_cut_is_refused(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self):
            return Path.write_text, (tmp_path / "ran", "x")

    layouts.refcoco(tmp_path, lambda value: pickle.dumps([*value, Bad()]))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p .*it tries to load"):
        read_questions("refcoco", tmp_path, "val")
    assert not (tmp_path / "ran").exists()
    layouts.refcoco(tmp_path, lambda value: pickle.dumps(value)[:100])
    with pytest.raises(DataError, match="cannot be read"):
        read_questions("refcoco", tmp_path, "val")


def test_objects_of_the_hub_that_two_authors_chose(tmp_path: Path) -> None:
    """The hub's val joins two splits, with some objects in both; two objects of an image are of one block."""
    path, (row,) = TABLES["refcoco"]
    rows = [{**row, "question_id": number, "file_name": f"COCO_train2014_000000144180_{number}.jpg"} for number in "56"]
    write_table(tmp_path / path, [*rows, rows[0]])
    found = read_questions("refcoco", tmp_path, "val")
    assert [question.id for question in found] == ["5/0", "5/1", "6/0", "6/1"]
    assert [question.question for question in found[:2]] == ["the cup", "red"] and found[0].box == (6, 4, 36, 24)
    assert {question.block for question in found} == {"COCO_train2014_000000144180.jpg"}
    write_table(tmp_path / path, [*rows, {**rows[0], "bbox": [0.0, 0.0, 1.0, 1.0]}])
    with pytest.raises(DataError, match="2 questions have the id '5/0'"):
        read_questions("refcoco", tmp_path, "val")


def test_bad_entries_of_phrases(tmp_path: Path) -> None:
    layouts.refcoco(tmp_path)
    with pytest.raises(DataError, match="there are: testA, val"):
        read_questions("refcoco", tmp_path, "test")
    instances = tmp_path / "refcoco" / "instances.json"
    with changing(instances) as value:
        value["annotations"][0]["bbox"] = [1, 2, 0, 4]
    with pytest.raises(DataError, match=r"`bbox` is \[1, 2, 0, 4\]"):
        read_questions("refcoco", tmp_path, "val")
    write_json(instances, {**value, "annotations": []})
    with pytest.raises(DataError, match="image 581857 or object 100"):
        read_questions("refcoco", tmp_path, "val")


VIDEOMME = {
    "video_id": "001", "duration": "short", "videoID": "fFjv93ACGo8", "question_id": "001-1", "question": "Which year?",
    "options": ["A. 1999.", "B. 2001."], "answer": "B",
}  # fmt: skip
PERCEPTION = {
    "video_name": "video_6860", "question_id": 3, "question": "Where?", "options": ["left", "right", "both"],
    "answer_id": 1, "area": "physics", "reasoning": "descriptive", "tag": ["motion"],
}  # fmt: skip


def plain_table(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.mark.parametrize(
    ("name", "table", "row", "video", "correct"),
    [
        ("videomme", "videomme/test-00000-of-00001.parquet", VIDEOMME, "data/fFjv93ACGo8.mp4", "2001."),
        ("perceptiontest", "mc_question_val/validation-00000-of-00001.parquet", PERCEPTION, "video_6860.mp4", "right"),
    ],
)
def test_tables_beside_videos(
    name: str, table: str, row: dict[str, object], video: str, correct: str, tmp_path: Path
) -> None:
    plain_table(tmp_path / table, row)
    write_image(tmp_path / video, b"a video")
    (question,) = read_questions(name, tmp_path)
    assert question.media == (tmp_path / video,) and question.correct is not None
    assert question.choices[question.correct] == correct and question.group == row.get("duration", "")
    del row["question"], row["options" if name == "videomme" else "answer_id"]
    plain_table(tmp_path / table, row)
    with pytest.raises(DataError, match=r"no column '(options|answer_id)'"):
        read_questions(name, tmp_path)


@pytest.mark.parametrize(
    ("choices", "answer", "read"),
    [
        (["A. C cooks.", "B. C sews."], "B. C sews.", ("C cooks.", "C sews.")),
        (["A. C cooks.", "B. C sews."], "B", ("C cooks.", "C sews.")),
        (["J. Smith", "U.S. troops"], 1, ("J. Smith", "U.S. troops")),
        (["J. Smith", "U.S. troops"], "U.S. troops", ("J. Smith", "U.S. troops")),
    ],
)
def test_a_table_with_videos_in_it_and_letters(
    choices: list[str], answer: object, read: tuple[str, ...], tmp_path: Path
) -> None:
    row = {"question_id": "0", "video_id": "v", "video": {"bytes": b"a video", "path": "v.mp4"}, "question": "Who?"}
    plain_table(tmp_path / "data" / "test-00000-of-00020.parquet", row | {"candidates": choices, "answer": answer})
    (question,) = read_questions("egoschema", tmp_path)
    (video,) = question.media
    assert isinstance(video, TableImage) and video.read() == b"a video"
    assert (question.choices, question.correct) == (read, 1)


def test_star_asks_about_a_part_of_a_video(tmp_path: Path) -> None:
    star(tmp_path)
    first, _ = read_questions("star", tmp_path)
    assert first.media == (Clip(tmp_path / "Charades_v1_480" / "6H78U.mp4", 11.1, 19.6),)
    assert (first.correct, first.group) == (1, "Interaction")


def test_tgif_qa(tmp_path: Path) -> None:
    tgifqa(tmp_path)
    action, transition, frame = read_questions("tgifqa", tmp_path)
    assert (action.choices[action.correct or 0], action.group, transition.group) == (
        "flap wings",
        "action",
        "transition",
    )
    assert all(question.media == (next(tmp_path.rglob("*.gif")),) for question in (action, transition, frame))
    score, prompt = TASKS["tgifqa"].score, TASKS["tgifqa"].prompt
    assert score is not None and "(C) flap wings" in prompt(action) and "single word" in prompt(frame)
    assert [score(text, frame, None) for text in ("Butterfly.", "a bird")] == [1, 0]
    assert [score(text, action, None) for text in ("(C)", "(A)")] == [1, 0]
    path = tmp_path / "Test_action_question.csv"
    path.write_text(path.read_text().replace("\t2\t", "\t5\t"))
    with pytest.raises(DataError, match="csv:2: the answer '5'"):
        read_questions("tgifqa", tmp_path)


def test_all_splits_of_refcoco_in_one_run(tmp_path: Path) -> None:
    _, rows = TABLES["refcoco"]
    for split in ("val", "testA", "testB"):
        write_table(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows)
    questions = read_questions("refcoco", tmp_path, "all")
    assert {question.group for question in questions} == {"val", "testA", "testB"}
    assert len({question.id for question in questions}) == len(questions) == 6
    (tmp_path / "data" / "testB-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"no refs\(unc\)\.p, and no Parquet file"):
        read_questions("refcoco", tmp_path, "all")
    refcoco(tmp_path / "original")
    with pytest.raises(DataError, match="there are: testA, val"):
        read_questions("refcoco", tmp_path / "original", "all")
