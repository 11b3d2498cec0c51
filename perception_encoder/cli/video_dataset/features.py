"""`pe video-dataset features`: motion, frames and answers of every video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import option
from perception_encoder.cli.progress import track
from perception_encoder.cli.video_dataset.options import Data

ASK = "Language model that answers 26 questions, such as facebook/Perception-LM-1B; builtin-lang is a demo."


def features(
    data: Data,
    out: Annotated[Path, options.out_option("Directory of Parquet files, one a tar.", "DIR")],
    model: Annotated[str | None, options.model_option("see `pe models`")] = None,
    ask_model: Annotated[str | None, option(ASK, "MODEL", options.MODEL)] = None,
    strict: options.Strict = False,
) -> None:
    """Compute features of videos.

    Frame rate, frames and I-frames; the motion vectors' length and variance, from the codec or, if it has none, by
    matching blocks; how much moves besides the camera, how often and in how many regions; embeddings of three uniform
    frames; and with --ask-model the probability of yes for 26 questions on the camera, the scene, motion, actions,
    content and obstruction. An interrupted run goes on at the next tar.

    Examples:

        pe video-dataset features clips -o features
        pe video-dataset features clips -o features -m PE-Core-L14-336 --ask-model facebook/Perception-LM-1B
    """
    from perception_encoder.inference.encoder import load
    from perception_encoder.language_alignment.load import load_language_model
    from perception_encoder.video_dataset.features import extract_features

    encoder = load(model := model or default_model.default_model())
    language_model = load_language_model(ask_model) if ask_model else None
    run = extract_features(data, out, encoder, language_model, track)
    output.print_line(f"features of {run.videos:,} videos: {out}")
    default_model.print_demo(model, ask_model)
    raise typer.Exit(output.input_status(run.failures, run.videos + len(run.failures), strict))
