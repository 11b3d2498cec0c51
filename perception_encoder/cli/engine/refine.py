"""`pe engine refine`: finetune a captioner on corrected captions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli.options import argument, model_option, option, out_option
from perception_encoder.cli.progress import progress, reporter, track


def refine(
    engine: Annotated[Path, argument("DIR", "A directory of `pe engine run`.")],
    captions: Annotated[Path, option("Table: video_id and human_caption.", "FILE")],
    out: Annotated[Path, out_option("Directory of the run: checkpoints and weights.", "DIR")],
    model: Annotated[
        str | None, model_option("see `pe models use`", "a run of `pe train` or `pe engine refine`; builtin-lang")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting.")] = None,
) -> None:
    """Finetune a captioner on refined captions.

    The paper's second phase: people correct captions of `captions.parquet`, and the captioner learns from them. Its
    projector and adapters are trained on (clip, corrected caption); the encoder stays. Settings are those of
    `pe train language_own`. An interrupted run resumes. Needs the extra `train`.

    Examples:

        pe engine refine captioned/ --captions corrected.csv -o runs/refined
        pe engine refine captioned/ --captions corrected.csv -o runs/refined --set steps=100 --set optimizer.lr=5e-5
        pe engine run --videos clips/ -o again/ --captioner runs/refined --video-prompt video_caption_short_v1
    """
    from perception_encoder.recipes import override
    from perception_encoder.video_data_engine.refine import find_video_prompt, refine_captioner, refinement

    video_prompt = find_video_prompt(engine)
    captioner = default_model.language_model(model)
    default_model.print_demo(captioner)
    config = override(refinement(captioner), set_ or [])
    logging.getLogger("perception_encoder.train.loop").setLevel(logging.INFO)  # it reports that a run resumes
    with progress("training", config.steps) as advance:
        path = refine_captioner(engine, captions, config, out, track, reporter(advance))
    output.print_line(f"weights: {path}")
    options = f"--captioner {path.parent} --video-prompt {video_prompt}"
    output.print_line(f"try it: pe engine run --videos VIDEOS -o OUT {options}")
