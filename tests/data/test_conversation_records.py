"""Records of conversations: placeholders and parts of messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perception_encoder.data.conversation_records import ConversationSample, Record, parse_record
from perception_encoder.errors import InputError

MEDIA = Path("media")


def parse(fields: dict[str, Any]) -> ConversationSample:
    return parse_record(Record("a.jsonl:1", "a.jsonl:1", fields), MEDIA)


def question(text: str, **media: Any) -> ConversationSample:
    return parse({"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": " A\n"}], **media})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>\nWhat?", "<image>What?"),
        ("What?\n<image>", "What?<image>"),
        ("  What? ", "<image>What?"),
        ("Is <image> good?", "Is <image> good?"),
        ("One:\n\n<image> \n\ntwo\nthree", "One:<image>two\nthree"),
        (" \n <image> \n a\n\nb  ", "<image>a\n\nb"),
        ("a \n\n \t<image>  b", "a<image>  b"),
        ("<image>", "<image>"),
        ("<IMAGE> x", "<image><IMAGE> x"),
    ],
)
def test_placeholders_stand_without_line_breaks(text: str, expected: str) -> None:
    assert question(text, image="a.png").turns == (("user", expected), ("assistant", "A"))


def test_media_are_in_the_order_of_their_placeholders() -> None:
    sample = question("<video> and <image>\n<image>", images=["a.png", "b.png"], video="c.mp4")
    assert [(medium.kind, medium.name) for medium in sample.media] == [
        ("video", "c.mp4"),
        ("image", "a.png"),
        ("image", "b.png"),
    ]
    assert sample.turns[0][1] == "<video> and <image><image>"
    assert question("Q", images=["a.png", "b.png"], video="c.mp4").turns[0][1] == "<image><image><video>Q"
    with pytest.raises(InputError, match="2 <image> and 0 <video>"):
        question("<image><image>Q", image="a.png", video="c.mp4")


def test_a_system_and_several_turns() -> None:
    sample = parse(
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": "A"},
                {"role": "user", "content": "<image>\nQ2"},
                {"role": "assistant", "content": "A2"},
            ],
            "images": ["a.png"],
        }
    )
    assert sample.turns == (
        ("system", "Be brief."),
        ("user", "Q"),
        ("assistant", "A"),
        ("user", "<image>Q2"),
        ("assistant", "A2"),
    )


def test_parts_may_name_their_media() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "text", "text": "or"},
        {"type": "image", "image": "b.png"},
        {"type": "video", "path": "c.mp4"},
        {"type": "text", "text": "?"},
    ]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A"}]}
    sample = parse({"messages": [{"role": "user", "content": content}, answer]})
    assert sample.turns == (("user", "<image>or<image><video>?"), ("assistant", "A"))
    assert [medium.name for medium in sample.media] == ["a.png", "b.png", "c.mp4"]
    with pytest.raises(InputError, match="for 3 images"):
        parse({"messages": [{"role": "user", "content": content}, answer], "image": "d.png"})


def test_keys_and_groups() -> None:
    fields = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}
    assert [parse({"id": value, **fields}).key for value in (7, "x", "", None)] == ["7", "x", "a.jsonl:1", "a.jsonl:1"]
    assert parse({"image": "b/../a.png", "id": 1, **fields}).group == parse({"image": "./a.png", **fields}).group
    assert parse({"id": 1, **fields}).group == "1"
    inside = str(Path.cwd() / MEDIA / "a.png")
    assert parse({"image": inside, **fields}).media == parse({"image": "a.png", **fields}).media
