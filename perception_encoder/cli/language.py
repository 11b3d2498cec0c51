"""`pe ask` and `pe caption`: questions and captions by a language model, and the options of such commands."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.options import ANSWER, MEDIA, MODEL, SPEED, argument, flag, items_of, option, out_option
from perception_encoder.cli.progress import progress
from perception_encoder.errors import ConfigError, DataError, InputError

if TYPE_CHECKING:
    from perception_encoder.inference.conversation.captions import CaptionFile, CaptionRow
    from perception_encoder.inference.conversation.media import MediaOptions
    from perception_encoder.preprocess.conversation import Generator, MediaPart, Message, Sampling

FORMS = (
    "facebook/Perception-LM-1B; a run of `pe train`; http://HOST/v1#MODEL, an endpoint; hf:NAME of transformers; "
    "python:MODULE:FUNCTION; builtin-lang, a demo"
)
"""Every form of a model that answers about images and videos."""
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="MODEL", rich_help_panel=MODEL, help=f"{FORMS} [default: see `pe models use`]."
    ),
]
Tiles = Annotated[int | None, option("Most tiles of an image; 0: none [default: the model's].", "N", MODEL, least=0)]
MaxTokens = Annotated[int, option("Most tokens of an answer.", panel=ANSWER, least=1)]
Temperature = Annotated[float, option("0: the most probable token; up to 2: draw.", panel=ANSWER, least=0)]
Frames = Annotated[int, option("Most frames of a video, at whole seconds if it is long.", panel=MEDIA, least=1)]
Pages = Annotated[str | None, option("Pages of a PDF, such as 1-3,7 [default: the first 8].", "PAGES", MEDIA)]
MISSING = 'give a question after the images and videos: pe ask photo.jpg "What is this?"'


def read_pages(text: str | None) -> tuple[int, ...] | None:
    """Read pages from "1-3,7"; ConfigError for anything else."""
    if text is None:
        return None
    pages: list[int] = []
    for part in items_of(text):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part)
        if not match or not 0 < int(match[1]) <= int(match[2] or match[1]):
            raise ConfigError(f"--pages is {text!r}; it must be pages from 1, such as 1-3,7")
        pages += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(pages)


def load_generator(
    model: str,
    tiles: int | None,
    frames: int,
    pages: tuple[int, ...] | None,
    private: bool,
    start: float | None = None,
    end: float | None = None,
) -> tuple[Generator, MediaOptions]:
    """Load a model of any of `FORMS`, and return how its media are opened.

    ConfigError for tiles of a model that is not ours.
    """
    from perception_encoder.inference.conversation.media import MediaOptions
    from perception_encoder.inference.fetch import FetchLimits
    from perception_encoder.language_alignment.language_model import LanguageModel
    from perception_encoder.video_data_engine.generators.load import load_engine_model

    generator = load_engine_model(model, tiles=tiles)
    options = MediaOptions(frames=frames, start=start, end=end, pages=pages, limits=FetchLimits(allow_private=private))
    if isinstance(generator, LanguageModel):
        options = replace(options, tile=generator.media.image_size, tiles=generator.media.tiles)
    elif tiles is not None:
        raise ConfigError(f"--tiles is {tiles}, but {generator.name} cuts its images itself; leave it out")
    return generator, options


def ask(
    media: Annotated[list[str] | None, argument("MEDIA", "Images, videos, PDFs, directories, URLs.")] = None,
    question: Annotated[str | None, argument("QUESTION", "The question; with -i it may be missing.")] = None,
    model: Model = None,
    tiles: Tiles = None,
    frames: Frames = 8,
    start: Annotated[float | None, option("First second of a video.", panel=MEDIA, least=0)] = None,
    end: Annotated[float | None, option("Last second of a video.", panel=MEDIA, least=0)] = None,
    pages: Pages = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
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
    chosen, name = read_pages(pages), default_model.language_model(model)
    check_paths(paths)
    generator, opening = load_generator(name, tiles, frames, chosen, private, start, end)
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


def caption(
    paths: shared.Files,
    out: Annotated[Path | None, out_option("A .jsonl or .parquet file; captions in it are left as they are.")] = None,
    model: Model = None,
    tiles: Tiles = None,
    frames: Frames = 8,
    pages: Pages = None,
    prompt: Annotated[str | None, option("Request [default: one for a sentence].", "TEXT", ANSWER)] = None,
    max_tokens: MaxTokens = 64,
    batch_size: Annotated[int, option("Images or videos described together.", panel=SPEED, least=1)] = 8,
    json: shared.Json = False,
    strict: shared.Strict = False,
    private: shared.PrivateUrls = False,
) -> None:
    """Describe images and videos.

    One caption a line: the path, a tab, the caption. With -o, captions are written to a file instead, and inputs that
    have one there are left out: an interrupted run resumes when the same command is repeated. Inputs that cannot be
    read are skipped and listed.

    Examples:

        pe models use facebook/Perception-LM-1B
        pe caption photos/
        pe caption photos/ "clips/*.mp4" -o captions.jsonl -m runs/lang
        pe caption photo.jpg --prompt "List the objects." --json
    """
    from perception_encoder.inference.conversation.captions import CaptionFile, caption_items
    from perception_encoder.inference.conversation.identity import generator_digest
    from perception_encoder.inference.listing import check_paths, list_items
    from perception_encoder.preprocess.conversation import CAPTION_PROMPT, Sampling

    sampling, chosen = Sampling(max_tokens=max_tokens), read_pages(pages)
    name = default_model.language_model(model)
    check_paths(paths)
    if next(list_items(paths), None) is None:
        raise DataError(f"no images or videos in {', '.join(paths)}")
    generator, media = load_generator(name, tiles, frames, chosen, private)
    default_model.print_demo(name)
    digest = generator_digest(generator) if json or out is not None else ""
    file = None if out is None else CaptionFile(out, generator.name, digest, prompt or CAPTION_PROMPT)
    items = list_items(paths) if file is None else file.missing(list_items(paths))
    total = sum(1 for _ in list_items(paths)) if output.error_console.is_terminal else None
    batches = caption_items(generator, items, prompt or CAPTION_PROMPT, sampling, media, batch_size, digest)
    rows, failures = _collect(batches, total, file, json)
    count = len(rows)
    if file is not None:
        file.finish()
        count = len(file.rows)
        output.print_line(f"{count} captions in {out}, {len(rows)} of them new")
    elif json:
        output.print_json([asdict(row) for row in rows])
    raise typer.Exit(output.input_status(failures, count + len(failures), strict))


def _collect(
    batches: Iterator[list[CaptionRow | InputError]], total: int | None, file: CaptionFile | None, json: bool
) -> tuple[list[CaptionRow], list[InputError]]:
    """Return the captions and the failures; captions are written or printed as they arrive."""
    rows: list[CaptionRow] = []
    failures: list[InputError] = []
    try:
        with progress("describing", total) as advance:
            for batch in batches:
                failures += [result for result in batch if isinstance(result, InputError)]
                described = [result for result in batch if not isinstance(result, InputError)]
                rows += described
                if file is not None:
                    file.add(described)
                for row in () if json or file is not None else described:
                    output.print_fields(row.id, row.caption)
                advance(len(batch))
    except KeyboardInterrupt:
        if file is not None:
            output.print_warning(f"stopped; {len(file.rows)} captions are saved, and the same command resumes")
        raise typer.Exit(output.INTERRUPTED) from None
    return rows, failures
