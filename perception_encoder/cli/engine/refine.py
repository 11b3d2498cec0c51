"""`pe engine refine`: finetune a captioner on corrected captions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli.options import argument, model_option, option, out_option
from perception_encoder.cli.progress import progress, reporter, track
from perception_encoder.errors import DataError

CAPTIONS = "Table of video_id and human_caption, or a file of `pe annotate` [default: DIR/annotations.sqlite]."


def refine(
    engine: Annotated[Path, argument("DIR", "A directory of `pe engine run`.")],
    out: Annotated[Path, out_option("Directory of the run: checkpoints and weights.", "DIR")],
    captions: Annotated[Path | None, option(CAPTIONS, "FILE")] = None,
    model: Annotated[
        str | None, model_option("that of DIR", "a run of `pe train` or `pe engine refine`; builtin-lang")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting.")] = None,
) -> None:
    """Finetune a captioner on refined captions.

    The paper's second phase: people correct the video captions, with `pe annotate DIR` or in a table, and the captioner
    learns from them. Its projector and adapters are trained on (clip, corrected caption); the encoder stays. Of several
    annotations of a clip, an approved one is taken, else the earliest. Settings are those of `pe train language_own`.
    An interrupted run resumes. Needs the extra `train`.

    Examples:

        pe engine refine captioned/ -o runs/refined
        pe engine refine captioned/ --captions corrected.csv -o runs/refined --set steps=100 --set optimizer.lr=5e-5
        pe engine run --videos clips/ -o again/ --captioner runs/refined --video-prompt video_caption_short_v1
    """
    from perception_encoder.recipes import override
    from perception_encoder.video_data_engine.refine import find_video_prompt, refine_captioner, refinement
    from perception_encoder.video_data_engine.settings import read_engine_settings

    video_prompt = find_video_prompt(engine)
    captioner = model or read_engine_settings(engine)["config"].get("captioner", "")
    texts = _read_corrections(engine, captions)
    default_model.print_demo(captioner)
    config = override(refinement(captioner), set_ or [])
    logging.getLogger("perception_encoder.train.loop").setLevel(logging.INFO)  # it reports that a run resumes
    with progress("training", config.steps) as advance:
        path = refine_captioner(engine, texts, config, out, track, reporter(advance))
    output.print_line(f"weights: {path}")
    options = f"--captioner {path.parent} --video-prompt {video_prompt}"
    output.print_line(f"try it: pe engine run --videos VIDEOS -o OUT {options}")


def _read_corrections(engine: Path, captions: Path | None) -> dict[str, str]:
    """Read corrected captions by clip, of a table or of an annotation project; DataError without any."""
    from perception_encoder.formats.tables import TABLE_SUFFIXES
    from perception_encoder.video_data_engine.refine import read_captions
    from perception_encoder.video_dataset.annotation.progress import read_refinements
    from perception_encoder.video_dataset.annotation.project import FILE_NAME, AnnotationProject

    path = captions or engine / FILE_NAME
    if path.suffix in TABLE_SUFFIXES:
        return read_captions(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; correct captions with: pe annotate {engine}, or give --captions FILE")
    project = AnnotationProject(engine, path)
    texts = {refinement.key: refinement.caption for refinement in read_refinements(project)}
    project.close()
    if not texts:
        raise DataError(f"{path} has no finished annotation; continue with: pe annotate {engine}")
    return texts
