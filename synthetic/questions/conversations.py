"""The conversations that a rendered scene's JSON gives, to train a language model on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception_encoder.data.conversation_records import MediaKind, Record, Turn, box_text
from perception_encoder.data.conversations import Scanned, ShardRecords
from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.entries import text_list
from perception_encoder.preprocess.conversation import CAPTION_PROMPT
from synthetic.questions.scene_questions import BOX_REQUEST, scene_answers, scene_boxes

MOST = 3
"""Maximum number of conversations about a scene."""


class SceneRecords(ShardRecords):
    """The conversations about the scenes of a tar; `apart`: see `scene_conversations`."""

    def __init__(self, path: Path, apart: bool = False) -> None:
        super().__init__(path)
        self.apart = apart
        self.count *= MOST

    def scan(self) -> Iterator[Scanned]:
        """Yield the conversations of all scenes."""
        for sample in range(self.count // MOST):
            try:
                records = self._records(sample)
            except InputError as error:
                yield sample * MOST, error
                continue
            yield from ((sample * MOST + at, record) for at, record in enumerate(records))

    def read(self, row: int) -> Record:
        """Return a conversation of a scene."""
        return self._records(row // MOST)[row % MOST]

    def _records(self, sample: int) -> list[Record]:
        scene = self.read_json(sample)
        try:
            conversations = scene_conversations(scene.fields, self.kind, self.apart)
        except DataError as error:
            raise InputError(scene.where, str(error)) from None
        records = []
        for at, turns in enumerate(conversations):
            messages = [{"role": role, "content": text} for role, text in turns]
            fields = {"messages": messages, self.kind: scene.fields[self.kind]}
            records.append(Record(scene.where, f"{scene.key}/{at}", fields, scene.key))
        return records


def scene_conversations(
    metadata: Mapping[str, Any], kind: MediaKind = "image", apart: bool = False
) -> list[tuple[Turn, ...]]:
    """Return the conversations of a rendered scene's JSON: one of questions, one of captions, one of boxes.

    The longest caption ends the questions, which it would answer if it came before them. The boxes are those of an
    image's objects that are the only ones of their kind. `apart`: no question sees another, so one conversation holds
    them all. Raises DataError for a field of another form.
    """
    where = "a scene"
    turns = _turns_of((scene_answer.question, scene_answer.answer) for scene_answer in scene_answers(metadata, where))
    captions = list(dict.fromkeys(text_list(metadata.get("caption", []), f"{where}: `caption`")))
    described = [(_request(kind, captions, at), caption) for at, caption in enumerate(captions)]
    if len(described) > 1:
        turns += _turns_of([described.pop()])
    boxes = _box_turns(metadata, where) if kind == "image" else []
    conversations = [turns, _turns_of(described), boxes]
    if apart:
        conversations = [[turn for item in conversations for turn in item]]
    return [
        ((conversation[0][0], f"<{kind}>{conversation[0][1]}"), *conversation[1:])
        for conversation in conversations
        if conversation
    ]


def _turns_of(pairs: Iterable[tuple[str, str]]) -> list[Turn]:
    return [turn for question, answer in pairs for turn in (("user", question), ("assistant", answer))]


def _request(kind: MediaKind, captions: Sequence[str], number: int) -> str:
    """The request that a caption answers: the first is short, and the last of several is long."""
    if number == 0:
        return CAPTION_PROMPT.replace("image", kind)
    return f"Describe the {kind} {'in detail' if number == len(captions) - 1 else 'in part'}."


def _box_turns(metadata: Mapping[str, Any], where: str) -> list[Turn]:
    """Questions for the boxes of objects that no other shares its kind with, and the answers."""
    boxes = scene_boxes(metadata, where)
    try:
        size = float(metadata["width"]), float(metadata["height"])
        return _turns_of((BOX_REQUEST.format(box.name), box_text(box.box, *size)) for box in boxes)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        if not boxes:
            return []
        first = boxes[0]
        raise DataError(f"{where}: the box of the {first.name} is {first.box}, but its image has no size") from None
