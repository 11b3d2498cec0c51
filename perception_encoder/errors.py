"""Typed exceptions: each names the value, what was allowed, and what to do."""

from __future__ import annotations

import collections.abc
import re
import typing
from contextlib import contextmanager
from typing import Literal

_E = typing.TypeVar("_E", bound=BaseException)

_LONGEST = 1000
"""Maximum characters of a message, which may quote a file or a value of any length."""


def shorten(text: str) -> str:
    """Shorten a message to at most 1,000 characters by cutting out the middle."""
    if len(text) <= _LONGEST:
        return text
    head, tail = text[: _LONGEST // 2], text[-_LONGEST // 4 :]
    return f"{head} … ({len(text) - len(head) - len(tail):,} characters left out) … {tail}"


_FOREIGN = re.compile(
    r"\[Errno -?\d+\] "
    r"|[, ]*(?:\b(?:Exception )?(?:from|at) )?(?:[\w.@~+-]*/)+[\w.+-]+\.(?:rs|c|cc|cpp|cxx|cu|h|hpp|py|pyx)(?::\d+)+:?"
)
"""A number of the operating system, and a line of the source of another library, on the machine that built it."""


def one_line(error: BaseException, first: bool = False) -> str:
    """Return a foreign error's message in one line of at most 200 characters.

    `first`: only its first line, and the second if the first ends in a colon.
    """
    message = error.args[0] if error.args else ""
    message = message.decode(errors="replace") if isinstance(message, bytes) else str(error)  # bytes: rawpy's
    message = message[:_LONGEST]
    lines = [" ".join(line.split()) for line in _FOREIGN.sub("", message).splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    text = " ".join(lines[: 1 + lines[0].endswith(":")] if first else lines)
    return text if len(text) <= 200 else text[:199] + "…"


def detached(error: _E) -> _E:
    """Return the error without its traceback and causes, whose frames hold the input, and the error in a cycle."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def install_command(extra: str) -> str:
    """Return the command that installs an extra of this package."""
    return (
        f"run: pip install 'perception-encoder[{extra}] @ git+https://github.com/perception-encoder/perception-encoder'"
    )


class PerceptionEncoderError(Exception):
    """Root of every error that this package raises on purpose; messages are never longer than `shorten` allows."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shorten(message))


class ModelError(PerceptionEncoderError):
    """A model cannot be built or loaded."""


class UnknownModelError(ModelError):
    """The model name is unknown."""


class CheckpointError(ModelError):
    """A file is not a checkpoint, or has another layout, names or shapes."""


class WeightsUnavailableError(ModelError):
    """Weights are not on disk and could not be downloaded."""


class ShapeError(PerceptionEncoderError):
    """A tensor has a shape that the model does not support."""


class ConfigError(PerceptionEncoderError):
    """A setting does not exist, or a value has the wrong type or range."""


class ContextLengthError(ConfigError):
    """A conversation does not fit the context of a language model."""


class DataError(PerceptionEncoderError):
    """A dataset is missing or incomplete."""


class OutputError(PerceptionEncoderError):
    """A result could not be written; nothing half-written remains."""


class SearchIndexError(PerceptionEncoderError):
    """A search index is missing or damaged, or has another version or model."""


class ClusterError(PerceptionEncoderError):
    """A cluster does not answer, has failing workers, or was lost."""


class EndpointError(PerceptionEncoderError):
    """A model behind an address does not answer, or answers incorrectly.

    `scope`: what it spoils: one "attempt"; one "answer", while others arrive; the "request", however often it is sent;
    or every request to this "service".
    `wait`: seconds after which the next attempt is welcome, if the answer says so.
    """

    def __init__(
        self,
        message: str,
        scope: Literal["attempt", "answer", "request", "service"] = "attempt",
        wait: float | None = None,
    ) -> None:
        self.scope, self.wait = scope, wait
        super().__init__(message)

    def __reduce__(self) -> tuple[type[EndpointError], tuple[str, str, float | None]]:
        return type(self), (str(self), self.scope, self.wait)


class MissingExtraError(PerceptionEncoderError):
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        self.module, self.extra = module, extra
        super().__init__(f"{module} is not installed; {install_command(extra)}")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.module, self.extra)


@contextmanager
def needs_extra(extra: str, module: str = "") -> collections.abc.Iterator[None]:
    """Turn an ImportError in the block into a MissingExtraError; `module`: by default the one that is missing."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(module or error.name or "a library", extra) from None


class InputError(PerceptionEncoderError):
    """One input could not be used; `source` is the name under which it was given."""

    def __init__(self, source: str, reason: str) -> None:
        self.source, self.reason = source, shorten(reason)
        super().__init__(f"{source}: {self.reason}")

    def to_dict(self) -> dict[str, str]:
        """Return the input and the reason as JSON values."""
        return {"path": self.source, "reason": self.reason}

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        return type(self), (self.source, self.reason)


class MediaNotFoundError(InputError):
    """The file does not exist."""


class MediaDecodeError(InputError):
    """The file is empty, truncated, damaged, or not an image or video."""


class MediaTooLargeError(InputError):
    """The input exceeds the limit on pixels, bytes or seconds."""


class UrlRefusedError(InputError):
    """The scheme or the address is not allowed."""
