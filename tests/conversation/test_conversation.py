"""What every assistant offers: questions, chats, streams and captions over `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.conversation.media import open_input, open_part, read_pages
from perception_encoder.errors import ConfigError, InputError, MediaDecodeError, MediaNotFoundError
from perception_encoder.formats.listing import Item, list_items
from perception_encoder.preprocess.frames import VideoFrames, plm_frame_indices
from perception_encoder.preprocess.media import resolve
from tests.clips import clip, number_of
from tests.pdfs import pdf


class Widths(pe.Assistant):
    """Tells the widths of its images and the last text; wide images fill its context. It notes what it sees."""

    name = "widths"

    def __init__(self) -> None:
        self.seen: list[Sequence[Sequence[pe.Message]]] = []

    def generate(
        self, conversations: Sequence[Sequence[pe.Message]], sampling: pe.Sampling | None = None
    ) -> list[pe.Reply]:
        self.seen.append(conversations)
        widths = [
            [
                part.width if isinstance(part, Image.Image) else -len(part.images)
                for message in conversation
                for part in message.media
            ]
            for conversation in conversations
        ]
        if max((width for row in widths for width in row), default=0) > 500:
            raise ConfigError("the images fill the context")
        limit = sampling.max_tokens if sampling else 0
        return [pe.Reply(f" {row} {limit}\n", 1, 1, True) for row in widths]


@pytest.fixture
def model() -> Widths:
    return Widths()


def test_a_question_about_media_of_every_form(model: Widths, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(clip(60))
    (tmp_path / "c.pdf").write_bytes(pdf([(300, 150)] * 3))
    image, array = Image.new("L", (30, 10)), np.zeros((10, 40, 3), np.uint8)
    media = [tmp_path / "a.png", f"{tmp_path / 'b.mp4'}@0s-1s", tmp_path / "c.pdf", image, array, np.stack([array] * 9)]
    model.tile, model.tiles = 100, 2
    answer = model.ask(media, "what?", frames=3, pages="1,3", max_tokens=5)
    assert str(answer) == answer.text == " [20, -3, 200, 200, 30, 40, -3] 5\n"
    (message,) = model.seen[0][0]
    assert message.content[-1] == "what?"
    facts = answer.to_dict()
    assert facts.pop("seconds") >= 0
    inputs = [str(tmp_path / "a.png"), media[1], str(tmp_path / "c.pdf"), "image in memory", "array", "array"]
    assert facts == {
        "question": "what?",
        "answer": answer.text,
        "model": "widths",
        "inputs": inputs,
        "prompt_tokens": 1,
        "tokens": 1,
        "cut": 0,
        "finished": True,
    }
    assert model.ask((), "what?").text == " [] 256\n"
    with pytest.raises(MediaNotFoundError, match=r"gone\.png: no such file"):
        model.ask("gone.png", "what?")


def test_a_chat_keeps_open_media_as_they_are(model: Widths, tmp_path: Path) -> None:
    Image.new("RGBA", (20, 10)).save(tmp_path / "a.png")
    (image,) = model.open(tmp_path / "a.png")
    frames = VideoFrames([Image.new("RGB", (8, 8))] * 2, [0.0, 0.1], 0.2, 2, complete=True)
    turns = [pe.Message("user", (image, frames, "what?")), pe.Message("assistant", ("a",))]
    answer = model.chat([*turns, pe.Message("user", ("sure?",))], max_tokens=3)
    assert (answer.text, answer.model) == (" [20, -2] 3\n", "widths")
    assert model.seen[0][0][0].content[:2] == (image, frames)
    assert list(model.stream(turns[:1], max_tokens=4)) == [" [20, -2] 4\n"]


def images(directory: Path, *widths: int) -> Path:
    for number, width in enumerate(widths):
        if width:
            Image.new("RGB", (width, 4)).save(directory / f"{number}.png")
        else:
            (directory / f"{number}.png").write_bytes(b"")
    return directory


def test_captions_are_in_order_and_failures_are_collected(model: Widths, tmp_path: Path) -> None:
    failures: list[InputError] = []
    done: list[int] = []
    media = images(tmp_path, 10, 0, 30, 600, 20)
    captions = model.caption(media, prompt="p", batch_size=3, skipped=failures, progress=done.append)
    assert [(caption.caption, Path(caption.path).name) for caption in captions] == [
        ("[10] 64", "0.png"),
        ("[30] 64", "2.png"),
        ("[20] 64", "4.png"),
    ]
    assert str(failures[0]).endswith("1.png: is empty")
    assert str(failures[1]).endswith("3.png: the images fill the context")
    assert [len(batch) for batch in model.seen] == [2, 2, 1, 1]  # the second batch does not fit: one by one
    assert done == [3, 2] and captions[0].prompt == "p" and captions[0].model == "widths"
    with pytest.raises(InputError, match=r"1\.png: is empty"):
        model.caption(media)


def numbers(part: object) -> list[int]:
    assert isinstance(part, VideoFrames)
    return [number_of(image) for image in part.images]


def test_a_file_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 10), (9, 8, 7, 255)).save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(clip(60))
    (tmp_path / "c.pdf").write_bytes(pdf([(200, 100), (100, 200)]))
    for file in (True, False):
        image_file, video_file, document = (
            Item(name, name, tmp_path / name) if file else (tmp_path / name).read_bytes()
            for name in ("a.png", "b.mp4", "c.pdf")
        )
        (image,) = open_input(image_file)
        assert isinstance(image, Image.Image) and image.mode == "RGB" and image.size == (20, 10)
        (video,) = open_input(video_file, frames=5)
        assert numbers(video) == plm_frame_indices(60, 25, 5)
        wide, tall = open_input(document, tile=100, tiles=2)
        assert (wide.size, tall.size) == ((200, 100), (100, 200))
        assert len(open_input(document, pages=(2,))) == 1


def test_a_part_of_a_video(tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(clip(60))
    options = {"frames": 4, "start": 1.0, "end": 2.0}
    (whole,), (item,) = list_items([tmp_path / "b.mp4"]), list_items([f"{tmp_path / 'b.mp4'}@0s-0.4s"])
    assert numbers(open_input(whole, **options)[0]) == plm_frame_indices(60, 25, 4, 1.0, 2.0)
    assert numbers(open_input(item, **options)[0]) == plm_frame_indices(60, 25, 4, 0.0, 0.4)  # its own range
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert len(open_input(Item("a", "a", tmp_path / "a.png"), **options)) == 1  # an image among videos has no range


def test_errors_have_the_items_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(MediaDecodeError, match=r"(cannot be decoded|is not an image)"):
        open_input(Item("upload 3", "a.png", tmp_path / "a.png"))
    with pytest.raises(MediaDecodeError, match=r"bytes in memory: is encrypted"):
        open_input(pdf([(9, 9)], encrypted=True))
    with pytest.raises(InputError, match=r"t:1: is a text"):
        open_input(Item("t:1", "t", text="a dog"))
    with pytest.raises(InputError, match=r"a dog: is text, not an image or a video"):
        open_part(resolve("a dog"))


@pytest.mark.parametrize("text", ["", "0", "3-1", "a", "1-", "-2", "1,,2", "9999999"])
def test_pages_are_numbers_and_ranges(text: str) -> None:
    assert [read_pages(text) for text in (None, "2", "1-3,7", "7, 1-2")] == [None, (2,), (1, 2, 3, 7), (7, 1, 2)]
    assert read_pages([3, 1]) == (3, 1)
    with pytest.raises(ConfigError, match="pages is"):
        read_pages(text)
