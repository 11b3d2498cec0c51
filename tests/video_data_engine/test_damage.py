"""Journals and settings with random damage: read, or one line that names the file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.video_data_engine.journal import Journal
from perception_encoder.video_data_engine.outputs import write_captions, write_quarantine, write_shards
from perception_encoder.video_data_engine.prompts import EnginePrompt
from perception_encoder.video_data_engine.record import STAGES, StageFailure, clips_of
from perception_encoder.video_data_engine.refine import find_video_prompt, refine_captioner, refinement
from perception_encoder.video_data_engine.settings import EngineSettings, read_settings
from tests.video_data_engine.conftest import ECHOES
from tests.video_data_engine.test_journal import RECORD, result

JUNK = (None, True, -1, 1e300, "", "x", "../x", [], [None], {}, {"x": 1})


def damage(content: bytes, chance: random.Random) -> bytes:
    """Flip bytes, cut a part out, cut the end off, or put junk in the place of a value."""
    kind = chance.randrange(4)
    at = chance.randrange(len(content))
    if kind == 0:
        changed = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(len(content))] = chance.randrange(256)
        return bytes(changed)
    if kind == 1:
        return content[:at] + content[at + chance.randint(1, 200) :]
    if kind == 2:
        return content[:at]
    lines = [json.loads(line) for line in content.splitlines()]
    places = [place for line in lines for place in values_of(line)]
    container, name = chance.choice(places)
    if isinstance(container, dict) and chance.random() < 0.3:
        del container[name]
    else:
        container[name] = chance.choice(JUNK)
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def values_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value inside another one: the container, and the key or index."""
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, name
        if isinstance(part, (dict, list)):
            yield from values_of(part)


def read_damaged(path: Path, content: bytes, seed: int, read: Callable[[], object]) -> str:
    """Read a damaged file; the message if it is refused, which has to be one line that names it, or its output."""
    path.write_bytes(damage(content, random.Random(seed)))
    try:
        read()
    except PerceptionEncoderError as error:
        message = str(error)
        assert str(path.parent) in message and "\n" not in message, message
        return message
    return ""


def test_damaged_journals(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for stage in STAGES:
        journal.add(result(stage))
    journal.add(StageFailure(key="b", stage="probe", source="b.mp4", reason="is empty", cause="video"))
    content = (tmp_path / "journal.jsonl").read_bytes()

    def read() -> None:
        journal = Journal(tmp_path)
        record = journal.restore(RECORD)
        if "probe" in record.results:
            clips_of(record)
        write_captions(tmp_path, journal, {})
        write_quarantine(tmp_path, journal)
        write_shards(tmp_path, journal, {}, 2, {})

    refused = [read_damaged(tmp_path / "journal.jsonl", content, seed, read) for seed in range(100)]
    assert 30 < len(list(filter(None, refused))) < 100


def test_damaged_settings(tmp_path: Path) -> None:
    prompts = [EnginePrompt(ECHOES.video_prompt, "Describe it."), EnginePrompt("mine", "Sum up.")]
    settings = EngineSettings(tmp_path, ECHOES, prompts)
    settings.add_model("summary", {"name": "echo"})
    content = (json.dumps(read_settings(tmp_path)) + "\n").encode()

    def read() -> None:
        find_video_prompt(tmp_path)
        with pytest.raises(PerceptionEncoderError, match=r"no such clip|settings\.json"):
            refine_captioner(tmp_path, {"a": "a cup"}, refinement("builtin-lang"), tmp_path / "out")
        EngineSettings(tmp_path, ECHOES, prompts).add_model("summary", {"name": "echo"})

    refused = [read_damaged(tmp_path / "settings.json", content, seed, read) for seed in range(60)]
    assert 20 < len(list(filter(None, refused))) < 60
