"""`pe caption`: describe images, videos and documents, one caption a line, or in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.language import options
from perception_encoder.cli.options import ANSWER, SPEED, option, out_option
from perception_encoder.cli.progress import progress
from perception_encoder.errors import DataError, InputError

if TYPE_CHECKING:
    from perception_encoder.inference.conversation.captions import CaptionFile, CaptionRow


def caption(
    paths: shared.Files,
    out: Annotated[Path | None, out_option("A .jsonl or .parquet file; captions in it are left as they are.")] = None,
    model: options.Model = None,
    tiles: options.Tiles = None,
    frames: options.Frames = 8,
    pages: options.Pages = None,
    prompt: Annotated[str | None, option("Request [default: one for a sentence].", "TEXT", ANSWER)] = None,
    max_tokens: options.MaxTokens = 64,
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

    sampling, chosen = Sampling(max_tokens=max_tokens), options.read_pages(pages)
    name = default_model.language_model(model)
    check_paths(paths)
    if next(list_items(paths), None) is None:
        raise DataError(f"no images or videos in {', '.join(paths)}")
    generator, media = options.load_generator(name, tiles, frames, chosen, private)
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
