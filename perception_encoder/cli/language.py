"""`pe ask` and `pe caption`: questions about images, videos and documents, and descriptions of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from perception_encoder.cli import options as shared
from perception_encoder.cli import output
from perception_encoder.cli.options import ANSWER, MEDIA, SPEED, MaxFrames, Tiles, argument, flag, option, out_option
from perception_encoder.cli.output import progress
from perception_encoder.errors import ConfigError, InputError
from perception_encoder.inference.model_spec import DEFAULT
from perception_encoder.models.defaults import default_model

if TYPE_CHECKING:
    from perception_encoder.conversation.captions import Caption

MaxTokens = Annotated[int, option("Maximum number of tokens of an answer.", panel=ANSWER, least=1)]
Pages = Annotated[str | None, option("Pages of a PDF, such as 1-3,7 [default: the first 8].", "PAGES", MEDIA)]
MISSING = 'give a question after the images and videos: pe ask photo.jpg "What is this?"'


def ask(
    media: Annotated[list[str] | None, argument("MEDIA", "Images, videos, PDFs, directories, URLs.")] = None,
    question: Annotated[str | None, argument("QUESTION", "The question; optional with -i.")] = None,
    model: shared.LanguageSpec = DEFAULT,
    tiles: Tiles = None,
    frames: MaxFrames = 8,
    start: Annotated[float | None, option("Show videos from this second.", "S", MEDIA, least=0)] = None,
    end: Annotated[float | None, option("Show videos up to this second.", "S", MEDIA, least=0)] = None,
    pages: Pages = None,
    max_tokens: MaxTokens = 256,
    interactive: Annotated[bool, flag("--interactive -i", "Read questions from standard input.", ANSWER)] = False,
    json: shared.Json = False,
) -> None:
    """Ask about images, videos and documents.

    The model sees all inputs in order, then the question. A single image is split into tiles so that small text stays
    readable; of several images, each is shown whole. For part of a video, write "clip.mp4@2s-5s" or use --start and
    --end. With -i, the model answers one question per line and remembers the conversation.

    Examples:

        pe models use facebook/Perception-LM-1B
        pe ask photo.jpg "How many cups are on the table?"
        pe ask report.pdf "What is the total?" --pages 1-3
        pe ask clip.mp4 "What happens at the end?" --start 20 -m runs/lang
        pe ask photo.jpg -i
    """
    from perception_encoder.conversation.media import read_pages
    from perception_encoder.formats.listing import check_paths
    from perception_encoder.language_models.load import load_assistant
    from perception_encoder.preprocess import conversation as conversations

    paths, question = _split(media or [], question or "", interactive)
    if not question and not interactive:
        raise ConfigError(MISSING)
    if interactive and json:
        raise ConfigError("--interactive prints answers as they arrive; omit --json")
    read_pages(pages)
    name = str(model.name) or default_model("language")
    check_paths(paths)  # before the model is loaded
    assistant = load_assistant(model, tiles=tiles)
    shown: dict[str, Any] = {"frames": frames, "start": start, "end": end, "pages": pages}
    if json:
        answer = assistant.ask(paths, question, **shown, max_tokens=max_tokens)
        output.print_demo(name)
        output.print_json(answer.to_dict())
        return
    parts = assistant.open(paths, **shown)
    output.print_demo(name)
    conversation: list[conversations.Message] = []
    for text in _questions(question, interactive):
        turn = [conversations.Message("user", (text,))] if conversation else conversations.ask(text, parts)
        conversation += turn
        answered = output.print_pieces(assistant.stream(conversation, max_tokens=max_tokens))
        conversation.append(conversations.Message("assistant", (answered,)))


def _split(media: Sequence[str], last: str, interactive: bool) -> tuple[list[str], str]:
    """Split the arguments into paths and the question: the last one, unless it is a file, a URL or looks like one.

    The name of a directory is the question if there must be one and other media come before it.
    """
    from perception_encoder.preprocess.fetch import is_url
    from perception_encoder.preprocess.source import MEDIA_SUFFIXES

    named = " " not in last and Path(last).suffix.lower() in {*MEDIA_SUFFIXES, ".pdf"}
    listed = os.path.isdir(last) and (interactive or not media)
    if last and (named or listed or is_url(last) or os.path.isfile(last)):
        return [*media, last], ""
    return list(media), last


def _questions(first: str, interactive: bool) -> Iterator[str]:
    """Yield the first question, if any, and the lines of standard input, with a prompt on a terminal."""
    if first:
        yield first
    while interactive:
        if sys.stdin.isatty():
            output.error_console.print("> ", end="", highlight=False)
        if not (line := sys.stdin.readline()):
            return
        if line.strip():
            yield line.strip()


def caption(
    paths: shared.Files,
    out: Annotated[Path | None, out_option("A .jsonl or .parquet file; existing captions are kept.")] = None,
    model: shared.LanguageSpec = DEFAULT,
    tiles: Tiles = None,
    frames: MaxFrames = 8,
    pages: Pages = None,
    prompt: Annotated[str | None, option("Prompt [default: asks for one sentence].", "TEXT", ANSWER)] = None,
    max_tokens: MaxTokens = 64,
    batch_size: Annotated[int, option("Images or videos described together.", panel=SPEED, least=1, advanced=True)] = 8,
    json: shared.Json = False,
    strict: shared.Strict = False,
) -> None:
    """Describe images, videos and documents.

    Prints one line per file: the path, a tab, the caption. With -o, captions are written to a file instead; files that
    have a caption there are skipped, so rerun an interrupted command to resume it. Unreadable files are skipped and
    listed.

    Examples:

        pe models use facebook/Perception-LM-1B
        pe caption photos/
        pe caption photos/ "clips/*.mp4" -o captions.jsonl -m runs/lang
        pe caption photo.jpg --prompt "List the objects." --json
    """
    arguments = shared.without(locals(), "paths", "model", "tiles", "json", "strict")
    from perception_encoder.formats.listing import check_paths, list_items
    from perception_encoder.language_models.load import load_assistant

    name = str(model.name) or default_model("language")
    check_paths(paths)  # before the model is loaded
    assistant = load_assistant(model, tiles=tiles)
    output.print_demo(name)
    total = sum(1 for _ in list_items(paths)) if output.error_console.is_terminal else None
    failures: list[InputError] = []
    new: list[Caption] = []

    def show(described: Caption) -> None:
        new.append(described)
        if out is None and not json:
            output.print_fields(described.id, described.caption)

    def stopped() -> str | None:
        return None if out is None else f"stopped; {len(new)} new captions are saved in {out}: rerun to resume"

    with output.interruptible(stopped), progress("describing", total) as advance:
        captions = assistant.caption(paths, **arguments, skipped=failures, on_caption=show, progress=advance)
    if out is not None:
        output.print_line(f"{len(captions)} captions in {out}, {len(new)} of them new")
    elif json:
        output.print_json([described.to_dict() for described in captions])
    output.exit_with_skipped(failures, len(captions), strict)
