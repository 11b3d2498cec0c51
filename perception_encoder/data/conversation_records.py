"""Parse a record in LLaVA's or OpenAI's layout into a conversation's turns, images and videos.

    conversations   [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cup."}, …]
    messages        [{"role": "user", "content": "…" or a list of parts}, …]

One of these stands beside image, images, video or videos.

Both layouts give the same turns: media stand where placeholders are, without the line break that LLaVA's layout puts
between them and the text, or before the first question if there are none. PLM's prompt is like that too.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from perception_encoder.errors import InputError
from perception_encoder.formats.entries import quoted
from perception_encoder.preprocess.conversation import MediaPart, Message, Role
from perception_encoder.preprocess.frames import plm_frame_indices
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.source import escape_name
from perception_encoder.preprocess.video import read_frames

MediaKind = Literal["image", "video"]
Turn = tuple[Role, str]
"""The role, and the text with `<image>` and `<video>` as placeholders for media."""

CONTENT_FIELDS = ("conversations", "messages")
MEDIA_FIELDS: dict[MediaKind, tuple[str, str]] = {"image": ("image", "images"), "video": ("video", "videos")}
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_MARKS = ("<image>", "<video>")
_PLACEHOLDERS = re.compile(f"({'|'.join(_MARKS)})")
_BREAKS = re.compile(r"(?<=<image>|<video>)\s*\n\s*|(?<!\s)(?=[^\S\n]*\n)\s++(?=<image>|<video>)")
"""White space with a line break beside a placeholder."""
_PART_KINDS: dict[str, MediaKind] = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}


class StoredMedia(Protocol):
    """The content of an image or a video inside a table or a shard."""

    def read(self) -> bytes:
        """Return its bytes; InputError if it cannot be read."""
        ...


@dataclass(frozen=True)
class Record:
    """A sample as its file stores it."""

    where: str
    """Its file and position, for errors."""
    key: str
    """Name of a record without an `id`, independent of the dataset's directory."""
    fields: Mapping[str, Any]
    """Fields by name; `MEDIA_FIELDS` hold paths or `StoredMedia`."""
    group: str | None = None
    """Identifies samples of the same image or video."""


@dataclass(frozen=True)
class SampleMedia:
    """An image or a video of a sample, not yet opened."""

    kind: MediaKind
    name: str
    """Path below `source`, or number in the sample."""
    source: Path | StoredMedia
    """The directory of media, or the content inside a table or a shard."""

    def open(self, name: str, frames: int) -> MediaPart:
        """Decode the image, or the video frames that PLM reads; InputError under `name` if that fails."""
        try:
            content = self.source / self.name if isinstance(self.source, Path) else self.source.read()
        except InputError as error:
            raise type(error)(name, str(error)) from error
        if self.kind == "image":
            return open_image(content, name)
        return read_frames(content, name, frames, choose=plm_frame_indices)


@dataclass(frozen=True)
class ConversationSample:
    """A conversation to train on; its images and videos are opened by `messages`."""

    key: str
    """The record's `id`, else its file's name and position."""
    turns: tuple[Turn, ...]
    media: tuple[SampleMedia, ...]
    """Media in the order of their placeholders."""
    where: str = ""
    """Its file and position, for errors."""
    group: str = ""
    """Shared by all samples of the same images and videos."""

    def messages(self, frames: int = 8) -> list[Message]:
        """Return the turns with decoded media, at most `frames` of a video; InputError names sample and file."""
        name = self.where if self.where.endswith(self.key) else f"{self.where} ({escape_name(self.key)})"
        opened = (media.open(f"{name}: {escape_name(media.name)}", frames) for media in self.media)
        return [
            Message(role, tuple(next(opened) if part in _MARKS else part for part in _PLACEHOLDERS.split(text) if part))
            for role, text in self.turns
        ]


class _BadRecord(Exception):
    """A record that cannot be used, and why."""


def parse_record(record: Record, directory: Path) -> ConversationSample:
    """Return the conversation of a record with media below `directory`, not looked for; InputError if it is bad."""
    try:
        return _parse(record, directory)
    except _BadRecord as error:
        raise InputError(record.where, str(error)) from None


def _parse(record: Record, directory: Path) -> ConversationSample:
    fields = record.fields
    named: dict[MediaKind, list[Any]] = {"image": [], "video": []}
    turns = _turns(fields, named)
    media = {
        kind: _media(kind, [*(item for name in names for item in _listed(fields.get(name))), *named[kind]], directory)
        for kind, names in MEDIA_FIELDS.items()
    }
    turns, ordered = _match_placeholders(turns, media)
    _check_turns(turns)
    value = fields.get("id")
    if isinstance(value, bool) or not isinstance(value, (int, str, type(None))):
        raise _BadRecord(f"`id` is {quoted(value)}; it must be an integer or a string")
    key = record.key if value is None or value == "" else str(value)
    files = [item.name for item in ordered if isinstance(item.source, Path)]
    group = record.group or "\0".join(files) or key
    return ConversationSample(key, tuple(turns), tuple(ordered), record.where, group)


def _turns(fields: Mapping[str, Any], named: dict[MediaKind, list[Any]]) -> list[Turn]:
    """Return the turns; append the media that their parts name to `named`."""
    layout = next((name for name in CONTENT_FIELDS if fields.get(name) is not None), None)
    if layout is None:
        raise _BadRecord(f"has none of the fields {', '.join(CONTENT_FIELDS)}")
    entries = fields[layout]
    if not isinstance(entries, list) or not entries or not all(isinstance(item, dict) for item in entries):
        raise _BadRecord(f"`{layout}` is {quoted(entries)}; it must be a list of objects")
    turns: list[Turn] = []
    for number, entry in enumerate(entries, 1):
        role = entry.get("from", entry.get("role"))
        if not isinstance(role, str) or role not in _ROLES:
            raise _BadRecord(f"turn {number} has the role {quoted(role)}; known: {', '.join(_ROLES)}")
        content = entry.get("value", entry.get("content"))
        if isinstance(content, list):
            content = "".join(_part(part, number, named) for part in content)
        turns.append((_ROLES[role], _text(content, number)))
    return turns


def _part(part: Any, number: int, named: dict[MediaKind, list[Any]]) -> str:
    """Return a part of a turn as text or a placeholder."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return _text(part.get("text"), number)
    if not isinstance(kind, str) or kind not in _PART_KINDS:
        raise _BadRecord(f"turn {number} has a part of type {quoted(kind)}; known: text, {', '.join(_PART_KINDS)}")
    source = part.get(kind, part.get("path"))
    named[_PART_KINDS[kind]] += _listed(source.get("url") if isinstance(source, dict) else source)
    return f"<{_PART_KINDS[kind]}>"


def _text(value: Any, number: int) -> str:
    if not isinstance(value, str):
        raise _BadRecord(f"the text of turn {number} is {quoted(value)}; it must be a string")
    if not value.isascii() and value != value.encode("utf-8", "replace").decode():  # JSON allows lone surrogates
        raise _BadRecord(f"the text of turn {number} is {quoted(value)}, which is not Unicode text")
    return value


def _listed(value: Any) -> list[Any]:
    """Return the media of a field: one, or a list."""
    return value if isinstance(value, list) else [] if value is None or value == "" else [value]


def _media(kind: MediaKind, values: list[Any], directory: Path) -> list[SampleMedia]:
    media = []
    for number, value in enumerate(values, 1):
        if hasattr(value, "read"):
            media.append(SampleMedia(kind, f"{kind} {number}", value))
            continue
        if not isinstance(value, str) or not value:
            raise _BadRecord(f"{kind} {number} is {quoted(value)}; it must be a path")
        if "://" in value or value.startswith("data:"):
            raise _BadRecord(f"{kind} {number} is the URL {quoted(value)}; download it, and give its path")
        name = os.path.normpath(os.path.relpath(value, directory) if os.path.isabs(value) else value)
        if name.partition(os.sep)[0] in (os.curdir, os.pardir):
            raise _BadRecord(f"the path {quoted(value)} leaves the directory {escape_name(directory)}")
        media.append(SampleMedia(kind, name, directory))
    return media


def _match_placeholders(
    turns: list[Turn], media: Mapping[MediaKind, list[SampleMedia]]
) -> tuple[list[Turn], list[SampleMedia]]:
    """Return the turns with a placeholder for each image and video, and the media in that order."""
    found = [placeholder for _, text in turns for placeholder in _PLACEHOLDERS.findall(text)]
    if not found:
        before = "".join(f"<{kind}>" * len(values) for kind, values in media.items())
        first = next((at for at, (role, _) in enumerate(turns) if role == "user"), 0)
        turns = [(role, before + text.lstrip() if at == first else text) for at, (role, text) in enumerate(turns)]
    elif media["video"] and not media["image"] and "<video>" not in found:  # as LLaVA-Video writes them
        turns = [(role, text.replace("<image>", "<video>")) for role, text in turns]
    waiting = {f"<{kind}>": list(values) for kind, values in media.items()}
    counts, ordered = Counter[str](), list[SampleMedia]()
    for number, (role, text) in enumerate(turns, 1):
        for placeholder in _PLACEHOLDERS.findall(text):
            if role != "user":
                raise _BadRecord(f"turn {number} of the {role} holds {placeholder}; only the user's may")
            ordered += waiting[placeholder][counts[placeholder] :][:1]
            counts[placeholder] += 1
    if any(counts[placeholder] != len(values) for placeholder, values in waiting.items()):
        present = " and ".join(f"{counts[placeholder]} {placeholder}" for placeholder in waiting)
        numbers = " and ".join(f"{len(values)} {kind}s" for kind, values in media.items())
        raise _BadRecord(f"has placeholders {present} for {numbers}; each image and video needs one")
    return [(role, _BREAKS.sub("", text).strip()) for role, text in turns], ordered


def _check_turns(turns: list[Turn]) -> None:
    """Check that questions and answers alternate after an optional system turn and that none is empty."""
    expected: Role = "user"
    for number, (role, text) in enumerate(turns, 1):
        if not text:
            raise _BadRecord(f"turn {number} of the {role} is empty")
        if role == "system" and number == 1:
            continue
        if role != expected:
            wrong = "has no answer" if expected == "assistant" else "is missing"
            raise _BadRecord(f"turn {number} is of the {role}, but the question before it {wrong}")
        expected = "assistant" if role == "user" else "user"
    if expected == "assistant" or turns[-1][0] == "system":
        raise _BadRecord(f"turn {len(turns)}, the last one, has no answer")


def box_text(box: Sequence[float], width: float, height: float) -> str:
    """Format a box in pixels (left, top, right, bottom) like the paper: `[x, y, x, y]`, three digits, 000 to 999."""
    values = (min(max(int(1000 * side / of), 0), 999) for side, of in zip(box, (width, height) * 2, strict=True))
    return f"[{', '.join(f'{value:03d}' for value in values)}]"
