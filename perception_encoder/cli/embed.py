"""`pe embed`: vectors of pictures, videos and texts, in a file."""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli.progress import progress
from perception_encoder.errors import DataError

app = typer.Typer()

Pool = StrEnum("Pool", ["attn", "cls", "mean", "tokens"])
DType = StrEnum("DType", ["float32", "bfloat16"])


@app.command()
def embed(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, tables, tars, URLs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .parquet file, .lance table or folder (npy + parquet).")],
    model: Annotated[str | None, typer.Option("--model", "-m", help=default_model.OPTION)] = None,
    layer: Annotated[int | None, typer.Option(help="Layer, from 0 or, from the end, -1; the last by default.")] = None,
    pool: Annotated[Pool | None, typer.Option(help="How a picture's tokens become one vector; tokens: all.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Uniform frames of a video.")] = 8,
    normalize: Annotated[bool, typer.Option(help="Make vectors of unit length.")] = True,
    dtype: Annotated[DType | None, typer.Option(help="bfloat16 by default where it is fast.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures or texts computed at once.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; more of them help with slow disks.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help=output.STRICT)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    private: Annotated[bool, typer.Option("--allow-private-urls", help="Let URLs lead to private addresses.")] = False,
) -> None:
    """Embed pictures, videos and texts.

    PATHS may be folders, globs, tars, URLs and tables (CSV, TSV, Parquet, JSONL) with a column of paths or texts;
    "clip.mp4@2s-5s" is a part of a video. Bad inputs are skipped and listed. A stopped run goes on when given again.

    Examples:

        pe embed photos/ -o photos.parquet
        pe embed "shots/**/*.jpg" clips/ -o vectors.parquet --model PE-Core-L14-336
        pe embed captions.csv -o captions/
        pe embed photos.tar -o tokens.parquet --layer -2 --pool tokens
    """
    import torch

    from perception_encoder.inference.encoder import load
    from perception_encoder.inference.listing import check_paths, list_items
    from perception_encoder.inference.output import EmbeddingWriter
    from perception_encoder.inference.pipeline import encode_items

    check_paths(paths)
    if next(list_items(paths), None) is None:
        raise DataError(f"no pictures, videos or texts in {', '.join(paths)}")
    encoder = load(source := model or default_model.default_model(), dtype=getattr(torch, dtype) if dtype else None)
    encoder.fetch_limits = replace(encoder.fetch_limits, allow_private=private)
    feature = encoder.feature(layer, pool, normalize, frames)
    total = sum(1 for _ in list_items(paths)) if output.error_console.is_terminal else None
    started = time.perf_counter()
    with EmbeddingWriter(out, encoder.describe(feature), overwrite=overwrite) as writer:
        earlier, items = writer.done, writer.resume(list_items(paths))
        try:
            with progress("embedding", total) as advance:
                advance(earlier)
                for batch in encode_items(encoder, items, feature, batch_size, workers):
                    writer.add(batch)
                    advance(len(batch))
        except KeyboardInterrupt:
            writer.flush()
            output.print_warning(f"stopped; {writer.done} items are kept, and the same command goes on from there")
            raise typer.Exit(output.INTERRUPTED) from None
        rows = writer.finish()
    speed = (writer.done - earlier) / (time.perf_counter() - started)
    output.print_line(f"{rows} vectors in {out}, {speed:.1f} items/s" if rows else f"no vectors, so no {out}")
    default_model.say_demo(source, model)
    raise typer.Exit(output.input_status(writer.failures, rows + len(writer.failures), strict))
