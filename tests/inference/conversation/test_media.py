"""Images, videos and documents as a conversation holds them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, InputError, MediaDecodeError
from perception_encoder.inference.conversation.media import (
    MediaOptions,
    open_content,
    open_input,
    open_part,
    read_pages,
)
from perception_encoder.inference.listing import Item, list_items
from perception_encoder.inference.media import resolve
from perception_encoder.preprocess.frames import VideoFrames, plm_frame_indices
from tests.clips import clip, number_of
from tests.pdfs import pdf


def numbers(part: object) -> list[int]:
    assert isinstance(part, VideoFrames)
    return [number_of(image) for image in part.images]


def test_a_file_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 10), (9, 8, 7, 255)).save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(clip(60))
    (tmp_path / "c.pdf").write_bytes(pdf([(200, 100), (100, 200)]))
    for content in ((tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        (image,) = open_content(content, "a.png")
        assert isinstance(image, Image.Image) and image.mode == "RGB" and image.size == (20, 10)
    for content in ((tmp_path / "b.mp4"), (tmp_path / "b.mp4").read_bytes()):
        (video,) = open_content(content, "b.mp4", MediaOptions(frames=5))
        assert numbers(video) == plm_frame_indices(60, 25, 5)
    for content in ((tmp_path / "c.pdf"), (tmp_path / "c.pdf").read_bytes()):
        wide, tall = open_content(content, "c.pdf", MediaOptions(tile=100, tiles=2))
        assert (wide.size, tall.size) == ((200, 100), (100, 200))
        assert len(open_content(content, "c.pdf", MediaOptions(pages=(2,)))) == 1


def test_a_part_of_a_video(tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(clip(60))
    (tmp_path / "a.png").write_bytes(b"")
    options = MediaOptions(frames=4, start=1.0, end=2.0)
    assert numbers(open_content(tmp_path / "b.mp4", "b.mp4", options)[0]) == plm_frame_indices(60, 25, 4, 1.0, 2.0)
    (item,) = list_items([f"{tmp_path / 'b.mp4'}@0s-0.4s"])
    assert numbers(open_input(item, options)[0]) == plm_frame_indices(60, 25, 4, 0.0, 0.4)  # its own range
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert len(open_content(tmp_path / "a.png", "a.png", options)) == 1  # an image among videos has no range


def test_errors_have_the_given_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(MediaDecodeError, match=r"upload 3: cannot be decoded|upload 3: is not an image"):
        open_content(tmp_path / "a.png", "upload 3")
    with pytest.raises(MediaDecodeError, match=r"upload 4: is encrypted"):
        open_content(pdf([(9, 9)], encrypted=True), "upload 4")
    with pytest.raises(InputError, match=r"t:1: is a text"):
        open_input(Item("t:1", "t", text="a dog"))
    with pytest.raises(InputError, match=r"a dog: is text, not an image or a video"):
        open_part(resolve("a dog"))


def test_pages() -> None:
    assert [read_pages(text) for text in (None, "2", "1-3,7", "7, 1-2")] == [None, (2,), (1, 2, 3, 7), (7, 1, 2)]
    assert read_pages([3, 1]) == (3, 1)


@pytest.mark.parametrize("text", ["", "0", "3-1", "a", "1-", "-2", "1,,2", "9999999"])
def test_other_pages_are_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="pages is"):
        read_pages(text)
