"""Ask about images, videos and documents: one interface for all models that answer."""

from __future__ import annotations

import collections.abc
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from perception_encoder.conversation.captions import Caption, caption_file
from perception_encoder.conversation.media import FRAMES, Inputs, input_name, list_inputs, open_input, read_pages
from perception_encoder.errors import (
    ConfigError,
    DataError,
    EndpointError,
    InputError,
    PerceptionEncoderError,
    detached,
)
from perception_encoder.files import digest
from perception_encoder.formats.listing import Item, check_paths, list_items
from perception_encoder.preprocess.conversation import CAPTION_PROMPT, MediaPart, Message, Reply, Sampling, ask
from perception_encoder.preprocess.source import as_paths

logger = logging.getLogger(__name__)

TRIES, PAUSE, MAX_PAUSE = 3, 1.0, 60.0
"""Attempts at an answer of an endpoint; seconds before the second one (later pauses double), and at most."""


@dataclass(frozen=True)
class Answer(Reply):
    """An answer and its inputs; `str()` returns the text."""

    question: str = ""
    model: str = ""
    inputs: tuple[str, ...] = ()
    """Names of the images, videos and documents."""
    seconds: float = 0.0
    """From the question to the end of the answer."""

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "question": self.question,
            "answer": self.text,
            "model": self.model,
            "inputs": list(self.inputs),
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "cut": self.cut,
            "finished": self.finished,
        }


class Assistant(ABC):
    """A model that answers questions about images, videos and documents; `load_assistant` loads one.

    Media are paths, URLs, PIL images, uint8 arrays (H, W, 3) or (F, H, W, 3), bytes, or `VideoFrames`; a path may be an
    image, a video, a part of one ("clip.mp4@2s-5s"), a PDF, a directory, a glob, a table or a tar. Bad media raise
    InputError. For a model of your own, subclass this and implement `generate`; and `describe`, if its weights change.

    Examples:
        >>> assistant = pe.load_assistant("builtin-lang")
        >>> assistant.ask("clip.mp4@2s-5s", "Is the cat in motion?").text
    """

    name: str
    """Name of the model in results."""
    tile: int = 448
    """Side of the model's tiles, in pixels; PDF pages are rendered to fill them."""
    tiles: int = 4
    """Maximum number of tiles of an image."""
    threads: int = 1
    """Maximum number of threads that may ask it at once."""

    def describe(self) -> dict[str, Any]:
        """Return what the answers depend on, as JSON values: the name, and the weights' hash or the address."""
        return {"name": self.name}

    @abstractmethod
    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """Return an answer to each conversation, greedily by default.

        Raises:
            ContextLengthError: A conversation does not fit the context: see `Sampling.cut`.
        """

    def generate_stream(
        self, conversation: Sequence[Message], sampling: Sampling | None = None
    ) -> collections.abc.Generator[str, None, Reply]:
        """Yield the answer to one conversation piece by piece, and return what `generate` returns.

        By default, the answer is one piece. Closing the iterator stops the generation. Raises what `generate` raises,
        before the first piece.
        """
        (reply,) = self.generate([conversation], sampling)
        yield reply.text
        return reply

    def open(
        self,
        media: Inputs,
        *,
        frames: int = FRAMES,
        start: float | None = None,
        end: float | None = None,
        pages: str | Sequence[int] | None = None,
    ) -> list[MediaPart]:
        """Decode media for the messages of a conversation, so that the model encodes them once for all its questions.

        Args:
            media: One or several.
            frames: Maximum number of frames of a video.
            start: Start of the part of videos to show, in seconds.
            end: Its end, in seconds.
            pages: Of PDFs, such as "1-3,7" or [1, 2, 3, 7]; by default the first 8.
        """
        shown: dict[str, Any] = {"frames": frames, "start": start, "end": end, "pages": read_pages(pages)}
        return [
            part
            for source in list_inputs(media)
            for part in open_input(source, **shown, tile=self.tile, tiles=self.tiles)
        ]

    def ask(
        self,
        media: Inputs,
        question: str,
        *,
        frames: int = FRAMES,
        start: float | None = None,
        end: float | None = None,
        pages: str | Sequence[int] | None = None,
        max_tokens: int = 256,
        temperature: float = 0.0,
    ) -> Answer:
        """Answer a question about media.

        Args:
            media: Shown in order before the question; may be empty.
            question: Follows the media.
            frames, start, end, pages: See `open`.
            max_tokens: Maximum length of the answer.
            temperature: 0 takes the most probable token; up to 2 draws.

        Raises:
            InputError: A medium cannot be read.
            ContextLengthError: The conversation does not fit the model's context.
            EndpointError: An endpoint does not answer.
        """
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
        parts = self.open(media, frames=frames, start=start, end=end, pages=pages)
        answer = _answer(self, ask(question, parts), sampling)
        return replace(answer, question=question, inputs=tuple(map(input_name, list_inputs(media))))

    def chat(self, messages: Sequence[Message], *, max_tokens: int = 256, temperature: float = 0.0) -> Answer:
        """Answer the last message of a conversation; raises what `ask` raises.

        Args:
            messages: Only the user's may hold media.
            max_tokens: Maximum length of the answer.
            temperature: See `ask`.

        Examples:
            >>> assistant.chat([pe.Message("user", (*assistant.open("photo.jpg"), "What is this?"))])
        """
        return _answer(self, messages, Sampling(max_tokens=max_tokens, temperature=temperature))

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int = 256, temperature: float = 0.0
    ) -> collections.abc.Generator[str, None, Reply]:
        """Yield the answer that `chat` returns piece by piece, as it is generated; closing the iterator stops it."""
        return self.generate_stream(messages, Sampling(max_tokens=max_tokens, temperature=temperature))

    def caption(
        self,
        media: str | Path | Sequence[str | Path],
        *,
        out: str | Path | None = None,
        prompt: str | None = None,
        max_tokens: int = 64,
        batch_size: int = 8,
        frames: int = FRAMES,
        pages: str | Sequence[int] | None = None,
        skipped: list[InputError] | None = None,
        on_caption: Callable[[Caption], object] = lambda caption: None,
        progress: Callable[[int], object] = lambda count: None,
    ) -> list[Caption]:
        """Describe images, videos and documents; return their captions in order.

        Args:
            media: One path or several.
            out: A .jsonl or .parquet file to write the captions to as they are made. Media that have one there are left
                out, so rerunning an interrupted call resumes it, and all captions of the file are returned.
            prompt: By default asks for one sentence.
            max_tokens: Maximum length of a caption.
            batch_size: Number of media described together.
            frames, pages: See `open`.
            skipped: Collects the errors of media that cannot be read or get no words; by default the first one raises.
            on_caption: Called with each new caption.
            progress: Called with the number of media done.

        Raises:
            DataError: There are no media.
            OutputError: `out` has captions of another model or prompt.
            EndpointError: An endpoint fails three times.
        """
        sampling, prompt = Sampling(max_tokens=max_tokens), prompt or CAPTION_PROMPT
        paths, pages = as_paths(media), read_pages(pages)
        check_paths(paths)
        items = list_items(paths)
        if (first := next(items, None)) is None:
            raise DataError(f"no images or videos in {', '.join(map(str, paths))}")
        weights = "" if out is None else digest_of(self)
        with nullcontext() if out is None else caption_file(Path(out), self.name, weights, prompt) as file:
            captions = [] if file is None else file.rows
            done = {caption.key for caption in captions}
            missing = (item for item in chain([first], items) if (item.id, item.path, item.start, item.end) not in done)
            while batch := list(islice(missing, batch_size)):
                results = _describe(self, batch, prompt, sampling, {"frames": frames, "pages": pages}, weights)
                described = [result for result in results if isinstance(result, Caption)]
                if file is None:
                    captions += described
                else:
                    file.append(*described)
                for caption in described:
                    on_caption(caption)
                for result in results:
                    if isinstance(result, InputError) and skipped is not None:
                        skipped.append(result)
                    elif not isinstance(result, Caption):
                        raise result
                progress(len(batch))
        return captions


def _answer(model: Assistant, conversation: Sequence[Message], sampling: Sampling) -> Answer:
    started = time.perf_counter()
    (reply,) = model.generate([conversation], sampling)
    return Answer(**vars(reply), model=model.name, seconds=time.perf_counter() - started)


def _describe(
    model: Assistant, items: Sequence[Item], prompt: str, sampling: Sampling, shown: Mapping[str, Any], weights: str
) -> list[Caption | InputError | EndpointError]:
    """Return the captions of items; an InputError for one without, an EndpointError if the endpoint is down."""
    opened: list[list[Message] | InputError] = []
    for item in items:
        try:
            opened.append(ask(prompt, model.open(item, **shown)))
        except InputError as error:
            opened.append(detached(error))
    conversations = [value for value in opened if not isinstance(value, InputError)]
    replies = iter(answer_all(model, conversations, sampling, threads=min(len(conversations), model.threads)))
    results: list[Caption | InputError | EndpointError] = []
    for item, value in zip(items, opened, strict=True):
        reply = value if isinstance(value, InputError) else next(replies)
        if isinstance(reply, InputError) or (isinstance(reply, EndpointError) and reply.scope == "attempt"):
            results.append(reply)
        elif isinstance(reply, PerceptionEncoderError):
            results.append(InputError(item.name, str(reply)))
        else:
            results.append(
                Caption(
                    id=item.id,
                    path=item.path,
                    start=item.start,
                    end=item.end,
                    caption=reply.text.strip(),
                    finished=reply.finished,
                    model=model.name,
                    prompt=prompt,
                    digest=weights,
                )
            )
    return results


def answer_all(
    model: Assistant,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    tries: int = TRIES,
    pause: float = PAUSE,
    threads: int = 1,
) -> list[Reply | PerceptionEncoderError]:
    """Return an answer to each conversation, or its error; an answer without a letter or digit is one.

    Raises EndpointError if no request can succeed.

    Args:
        tries, pause: See `answer`.
        threads: Concurrent requests, to a model that is safe to share; one thread gives the model all conversations
            together, and one by one if that fails.
    """

    def one(conversation: Sequence[Message]) -> Reply | PerceptionEncoderError:
        try:
            return _checked(answer(model, conversation, sampling, tries, pause))
        except EndpointError as error:
            if error.scope == "service":
                raise
            return error
        except ConfigError as error:  # it does not fit the model's context
            return error

    if threads > 1 and len(conversations) > 1:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, conversations))
    if len(conversations) > 1:
        try:
            return [_checked(reply) for reply in model.generate(conversations, sampling)]
        except (EndpointError, ConfigError):
            pass
    return list(map(one, conversations))


def answer(
    model: Assistant, conversation: Sequence[Message], sampling: Sampling, tries: int = TRIES, pause: float = PAUSE
) -> Reply:
    """Return an answer to a conversation, after at most `tries` attempts at an endpoint that fails for the moment.

    Raises the EndpointError of the last one, or of one that does not get better, and what `generate` raises.
    """
    for attempt in range(1, tries):
        try:
            return model.generate([conversation], sampling)[0]
        except EndpointError as error:
            if error.scope in ("request", "service"):
                raise
            wait = pause * 2 ** (attempt - 1) if error.wait is None else error.wait
            logger.info("attempt %d of %d: %s", attempt, tries, error)
            time.sleep(min(MAX_PAUSE, wait))
    return model.generate([conversation], sampling)[0]


def _checked(reply: Reply) -> Reply | PerceptionEncoderError:
    if not any(letter.isalnum() for letter in reply.text):
        return ConfigError("the model answered without a word")
    return reply


def digest_of(model: Assistant) -> str:
    """Return a digest of what a model is, but for its name; answers are stored with it."""
    return digest({name: value for name, value in model.describe().items() if name != "name"})
