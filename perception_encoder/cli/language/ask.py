"""`pe ask`: answer questions about images, videos and PDF pages."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.language import options
from perception_encoder.cli.options import ANSWER, MEDIA, argument, flag, option
from perception_encoder.errors import ConfigError

if TYPE_CHECKING:
    from perception_encoder.preprocess.conversation import Generator, MediaPart, Message, Sampling

MISSING = 'give a question after the images and videos: pe ask photo.jpg "What is this?"'


def ask(
    media: Annotated[list[str] | None, argument("MEDIA", "Images, videos, PDFs, directories, URLs.")] = None,
    question: Annotated[str | None, argument("QUESTION", "The question; with -i it may be missing.")] = None,
    model: options.Model = None,
    tiles: options.Tiles = None,
    frames: options.Frames = 8,
    start: Annotated[float | None, option("First second of a video.", panel=MEDIA, least=0)] = None,
    end: Annotated[float | None, option("Last second of a video.", panel=MEDIA, least=0)] = None,
    pages: options.Pages = None,
    max_tokens: options.MaxTokens = 256,
    temperature: options.Temperature = 0.0,
    system: Annotated[str | None, option("System message [default: the model's].", "TEXT", ANSWER)] = None,
    interactive: Annotated[bool, flag("--interactive -i", "Read questions, one a line.", ANSWER)] = False,
    json: shared.Json = False,
    private: shared.PrivateUrls = False,
) -> None:
    """Answer a question about images or videos.

    All inputs are shown in order, then the question. An image alone is cut into tiles, so that small text can be read;
    several images are seen whole. A long video gives frames at whole seconds; "clip.mp4@2s-5s" is a part of one. With
    -i, each line of the standard input is a question about the same media, and the model remembers its answers.

    Examples:

        pe models use facebook/Perception-LM-1B
        pe ask photo.jpg "How many cups are on the table?"
        pe ask report.pdf "What is the total?" --pages 1-3
        pe ask clip.mp4 "What happens at the end?" --start 20 -m runs/lang
        pe ask photo.jpg -i
    """
    from perception_encoder.inference.conversation.media import open_item_media
    from perception_encoder.inference.listing import check_paths, list_items
    from perception_encoder.preprocess import conversation as conversations

    paths, question = _split(media or [], question or "")
    if not question and not interactive:
        raise ConfigError(MISSING)
    if interactive and json:
        raise ConfigError("--interactive prints answers as they arrive; leave out --json")
    sampling = conversations.Sampling(max_tokens=max_tokens, temperature=temperature)
    chosen, name = options.read_pages(pages), default_model.language_model(model)
    check_paths(paths)
    generator, opening = options.load_generator(name, tiles, frames, chosen, private, start, end)
    items = list(list_items(paths))
    parts = [part for item in items for part in open_item_media(item, opening)]
    default_model.print_demo(name)
    if interactive:
        _chat(generator, parts, question, system, sampling)
        return
    conversation = conversations.ask(question, parts, system)
    if json:
        _print_answer(generator, conversation, sampling, [item.name for item in items])
    else:
        output.print_pieces(generator.stream(conversation, sampling))


def _split(media: Sequence[str], last: str) -> tuple[list[str], str]:
    """Part the arguments into paths and the question: the last one, unless it is a file, a URL or looks like one."""
    from perception_encoder.inference.fetch import is_url
    from perception_encoder.preprocess.media_types import MEDIA_SUFFIXES

    named = " " not in last and Path(last).suffix.lower() in {*MEDIA_SUFFIXES, ".pdf"}
    if last and (named or is_url(last) or os.path.exists(last)):
        return [*media, last], ""
    return list(media), last


def _print_answer(generator: Generator, conversation: Sequence[Message], sampling: Sampling, inputs: list[str]) -> None:
    started = time.perf_counter()
    (reply,) = generator.generate([conversation], sampling)
    output.print_json(
        {
            "question": conversation[-1].content[-1],
            "answer": reply.text,
            "model": generator.name,
            "inputs": inputs,
            "prompt_tokens": reply.prompt_tokens,
            "tokens": reply.tokens,
            "seconds": round(time.perf_counter() - started, 3),
            "cut": reply.cut,
            "finished": reply.finished,
        }
    )


def _chat(generator: Generator, parts: Sequence[MediaPart], first: str, system: str | None, sampling: Sampling) -> None:
    """Answer question after question; the media come before the first, and are encoded once."""
    from perception_encoder.preprocess.conversation import Message, ask

    conversation: list[Message] = []
    for question in _questions(first):
        conversation += [Message("user", (question,))] if conversation else ask(question, parts, system)
        answer = output.print_pieces(generator.stream(conversation, sampling))
        conversation.append(Message("assistant", (answer,)))


def _questions(first: str) -> Iterator[str]:
    """Yield the first question, if there is one, and the lines of the standard input, with a prompt on a terminal."""
    if first:
        yield first
    while True:
        if sys.stdin.isatty():
            output.error_console.print("> ", end="", highlight=False)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
