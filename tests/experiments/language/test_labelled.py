"""Conversations about labelled images: questions with right answers, and nothing that is held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.language.labelled import YES_OR_NO, write_labelled
from perception_encoder.data.conversations import open_conversations
from perception_encoder.errors import DataError
from tests.evaluation.colours import write_colours


def test_conversations(tmp_path: Path) -> None:
    write_colours(tmp_path / "photos" / "train.tar", "flowers", ["red rose", "green rose", "blue rose"] * 4)
    write_colours(tmp_path / "photos" / "test.tar", "flowers", ["white rose"])
    write_colours(tmp_path / "drawings" / "train" / "noto.tar", "noto", ["red hat", "blue hat"] * 3)
    write_colours(tmp_path / "drawings" / "unseen" / "openmoji.tar", "openmoji", ["red hat"])
    out = tmp_path / "conversations.tar"
    count = write_labelled([tmp_path / "photos", tmp_path / "drawings"], "train", out)
    data = open_conversations(out)
    assert len(data) == count >= 13
    for sample in data:
        turns = dict(zip(*[iter(text for _, text in sample.turns)] * 2, strict=True))
        texts = {question.removeprefix("<image>"): answer for question, answer in turns.items()}
        drawn = texts["Is this a photo or a drawing?"] == "a drawing"
        assert drawn == (sample.key.startswith("noto"))
        noun = texts.get("What is in the image?", "")
        names = [question for question in texts if question.startswith("Is there ")]
        assert 1 <= len(names) <= YES_OR_NO
        for question in names if noun else ():
            assert (texts[question] == "yes") == (noun in question)
    with pytest.raises(DataError, match="two are needed"):
        write_labelled([tmp_path / "drawings"], "unseen", out)
    first = out.read_bytes()
    write_labelled([tmp_path / "photos", tmp_path / "drawings"], "train", out)
    assert out.read_bytes() == first
