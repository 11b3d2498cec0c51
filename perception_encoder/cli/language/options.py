"""The options that `pe ask`, `pe caption` and the language commands of `pe eval` share, and the model they load."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli.options import ANSWER, MEDIA, MODEL, items_of, option
from perception_encoder.errors import ConfigError

if TYPE_CHECKING:
    from perception_encoder.inference.conversation.media import MediaOptions
    from perception_encoder.preprocess.conversation import Generator

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
    options = MediaOptions(
        frames=frames, start=start, end=end, pages=pages, limits=FetchLimits(allow_private=private)
    )
    if isinstance(generator, LanguageModel):
        options = replace(options, tile=generator.media.image_size, tiles=generator.media.tiles)
    elif tiles is not None:
        raise ConfigError(f"--tiles is {tiles}, but {generator.name} cuts its images itself; leave it out")
    return generator, options
