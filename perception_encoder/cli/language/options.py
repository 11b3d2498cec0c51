"""The options that `pe ask`, `pe caption` and the language commands of `pe eval` share, and the model they load."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli.options import ANSWER, MEDIA, MODEL, items_of, model_option, option
from perception_encoder.errors import ConfigError

if TYPE_CHECKING:
    from perception_encoder.inference.conversation.media import MediaOptions
    from perception_encoder.language_alignment.language_model import LanguageModel

Model = Annotated[
    str | None, model_option("see `pe models use`", "a run of `pe train`; facebook/Perception-LM-1B; builtin-lang")
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
) -> tuple[LanguageModel, MediaOptions]:
    """Load a language model, and return how its media are opened."""
    from perception_encoder.inference.conversation.media import MediaOptions
    from perception_encoder.inference.fetch import FetchLimits
    from perception_encoder.language_alignment.load import load_language_model

    generator = load_language_model(model, tiles=tiles)
    options = MediaOptions(
        frames=frames,
        start=start,
        end=end,
        pages=pages,
        tile=generator.media.image_size,
        tiles=generator.media.tiles,
        limits=FetchLimits(allow_private=private),
    )
    return generator, options
