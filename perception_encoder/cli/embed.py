"""`pe embed`: write the embeddings of images, videos and texts to a file."""

from __future__ import annotations

from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import MODEL, option
from perception_encoder.cli.output import track
from perception_encoder.models.defaults import default_model
from perception_encoder.progress import untracked


def embed(
    paths: options.Files,
    out: options.Embeddings,
    overwrite: options.Overwrite = False,
    model: options.PooledSpec = options.NO_MODEL,
    normalize: Annotated[bool, option("Scale embeddings to unit length.", panel=MODEL)] = True,
    frames: options.Frames = 8,
    exclude: options.Exclude = None,
    strict: options.Strict = False,
) -> None:
    """Embed images, videos and texts.

    Tables (CSV, TSV, Parquet, JSONL) need a column of paths or of texts; "clip.mp4@2s-5s" is a part of a video.
    Files named in a directory's .peignore are excluded. Unreadable inputs are skipped and listed. Rerun an
    interrupted command to resume it.

    Examples:

        pe embed photos/ -o photos.parquet
        pe embed "shots/**/*.jpg" clips/ -o embeddings.parquet -m PE-Core-L14-336
        pe embed captions.csv -o captions/
        pe embed photos/ -o photos.parquet --exclude raw/ --exclude '*_small.jpg'
        pe embed photos.tar -o tokens.parquet --layer -2 --pool tokens
    """
    arguments = options.without(locals(), "paths", "out", "exclude", "strict")
    from perception_encoder.inference import output as embeddings

    source, progress = str(model.name or default_model()), track if output.error_console.is_terminal else untracked
    with output.interruptible(lambda: "stopped; finished embeddings are saved: rerun the same command to resume"):
        report = embeddings.embed(paths, out, exclude=exclude or (), **arguments, progress=progress)
    speed = f"{report.encoded / report.seconds:.1f} items/s"
    rows = report.rows
    output.print_line(f"{rows} embeddings in {out}, {speed}" if rows else f"no embeddings; {out} was not written")
    output.report_left_out(report.left_out)
    output.print_demo(source)
    output.exit_with_skipped(report.skipped, rows, strict)
