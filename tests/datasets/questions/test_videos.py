"""Questions about videos, in the layouts of the hub and of their authors."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_encoder.datasets.questions.read import read_questions
from perception_encoder.errors import DataError
from perception_encoder.evaluation.language.tasks import TASKS
from perception_encoder.formats.media_directory import Clip
from perception_encoder.formats.tables import TableImage
from tests.datasets.questions.layouts import TABLES, refcoco, star, tgifqa, write_image, write_table

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
    with pytest.raises(DataError, match=r"parquet has no column '(options|answer_id)', but 'video"):
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
    with pytest.raises(DataError, match=r"Test_action_question\.csv:2: the answer '5' is not among the choices"):
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
    with pytest.raises(DataError, match="no phrase of the split 'testB'; there are: testA, val"):
        read_questions("refcoco", tmp_path / "original", "all")
