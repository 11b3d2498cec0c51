"""Questions about rendered scenes and documents, as `pe data` writes them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from perception_encoder.datasets.questions.read import read_questions
from perception_encoder.datasets.questions.rendered import GROUNDING
from perception_encoder.errors import DataError
from perception_encoder.formats.shards import write_members
from synthetic.documents.production import DocumentsConfig, write_documents
from tests.data.tars import image_bytes


def test_scenes(tmp_path: Path) -> None:
    scene = {
        "questions": [{"type": "count", "question": "How many mugs are there?", "answer": "1"}],
        "objects": [{"kind": "mug", "box": [1, 2, 3, 4]}],
        "caption": ["a mug", "The picture shows a mug."],
    }
    content = json.dumps(scene).encode()
    members = [("a.jpg", image_bytes(1, "JPEG")), ("a.mask.png", image_bytes(0)), ("a.json", content)]
    write_members(tmp_path / "test" / "00000.tar", members)
    asked, box = read_questions("scenes", tmp_path)
    assert (asked.id, asked.question, asked.answers, asked.group, asked.block) == (
        *("a/0", "How many mugs are there?", ("1",)),
        *("count", "a"),
    )
    assert (box.question, box.box, box.group, box.block) == ("Give the box of the mug.", (1, 2, 3, 4), GROUNDING, "a")
    assert asked.media == box.media == (members[0][1],)
    (captioned,) = read_questions("scene captions", tmp_path)
    assert (captioned.id, captioned.question, captioned.answers) == ("a", "", ("a mug",))
    with pytest.raises(DataError, match=r"-m synthetic\.scenes"):
        read_questions("scenes", tmp_path, "val")
    write_members(tmp_path / "val" / "00000.tar", [members[0], ("a.json", b"[]")])
    with pytest.raises(DataError, match=r"a\.json is not a JSON object"):
        read_questions("scenes", tmp_path, "val")


def test_documents(tmp_path: Path) -> None:
    config = DocumentsConfig(count=3, split="test", size=224, kinds=("receipt",), look="clean")
    write_documents(tmp_path, config, jobs=1)
    questions = read_questions("documents", tmp_path)
    assert Counter(question.group for question in questions)["total"] == 3
    assert len({question.block for question in questions}) == 3
    assert all(Path(str(question.media[0])).is_file() and len(question.answers) == 1 for question in questions)
    with pytest.raises(DataError, match=r"-m synthetic\.documents"):
        read_questions("documents", tmp_path, "val")
