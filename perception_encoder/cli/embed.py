"""`pe embed`: write the embeddings of images, videos and texts to a file."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import MODEL, SPEED, option
from perception_encoder.cli.progress import progress
from perception_encoder.errors import DataError

Pool = StrEnum("Pool", ["attn", "cls", "mean", "tokens"])
DType = StrEnum("DType", ["float32", "bfloat16"])


def embed(
    paths: options.Files,
    out: options.Embeddings,
    overwrite: options.Overwrite = False,
    model: options.Model = None,
    layer: Annotated[int | None, option("Layer: 0, 1, … or -1, -2, … [default: the last].", "N", MODEL)] = None,
    pool: Annotated[Pool | None, option("Pooling [default: the model's]; tokens for none.", panel=MODEL)] = None,
    normalize: Annotated[bool, option("Scale embeddings to unit length.", panel=MODEL)] = True,
    frames: options.Frames = 8,
    dtype: Annotated[DType | None, option("Precision [default: bfloat16 if it is faster here].", panel=SPEED)] = None,
    batch_size: Annotated[int | None, option("Images or texts per batch.", panel=SPEED, least=1)] = None,
    workers: Annotated[int | None, option("Reading threads; slow disks need more.", panel=SPEED, least=1)] = None,
    strict: options.Strict = False,
    private: options.PrivateUrls = False,
) -> None:
    """Embed images, videos and texts.

    Tables (CSV, TSV, Parquet, JSONL) need a column of paths or of texts; "clip.mp4@2s-5s" is a part of a video. Inputs
    that cannot be read are skipped and listed. An interrupted run resumes when the same command is repeated.

    Examples:

        pe embed photos/ -o photos.parquet
        pe embed "shots/**/*.jpg" clips/ -o embeddings.parquet -m PE-Core-L14-336
        pe embed captions.csv -o captions/
        pe embed photos.tar -o tokens.parquet --layer -2 --pool tokens
    """
    import torch

    from perception_encoder.inference.listing import check_paths, list_items
    from perception_encoder.inference.load import load
    from perception_encoder.inference.output import EmbeddingWriter
    from perception_encoder.inference.pipeline import encode_items

    check_paths(paths)
    if next(list_items(paths), None) is None:
        raise DataError(f"no images, videos or texts in {', '.join(paths)}")
    encoder = load(source := model or default_model.default_model(), dtype=getattr(torch, dtype) if dtype else None)
    encoder.fetch_limits = replace(encoder.fetch_limits, allow_private=private)
    feature = encoder.feature(layer, pool, normalize, frames)
    total = sum(1 for _ in list_items(paths)) if output.error_console.is_terminal else None
    started, left_out = time.perf_counter(), Counter[str]()
    with EmbeddingWriter(out, encoder.describe(feature), overwrite=overwrite) as writer:
        earlier, items = writer.done, writer.resume(list_items(paths, left_out))
        try:
            with progress("embedding", total) as advance:
                advance(earlier)
                for batch in encode_items(encoder, items, feature, batch_size, workers):
                    writer.add(batch)
                    advance(len(batch))
        except KeyboardInterrupt:
            writer.flush()
            output.print_warning(f"stopped; {writer.done} items are saved, and the same command resumes from there")
            raise typer.Exit(output.INTERRUPTED) from None
        rows = writer.finish()
    speed = (writer.done - earlier) / (time.perf_counter() - started)
    summary = f"{rows} embeddings in {out}, {speed:.1f} items/s" if rows else f"no embeddings; {out} was not written"
    output.print_line(summary)
    output.report_left_out(left_out)
    default_model.print_demo(source)
    raise typer.Exit(output.input_status(writer.failures, rows + len(writer.failures), strict))
