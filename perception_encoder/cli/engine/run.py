"""`pe engine run`: caption videos for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.language.options import FORMS
from perception_encoder.cli.options import MEDIA, MODEL, OUTPUT, SPEED, flag, option, out_option
from perception_encoder.errors import InputError

if TYPE_CHECKING:
    from perception_encoder.video_data_engine.report import EngineReport

CAPTIONER = f"Captioner of videos: {FORMS} [default: see `pe models use`]."
LLM = "Model of the summary: the same forms, and smollm2 or a GGUF file [default: the captioner of videos]."
VIDEO_PROMPT = """Prompt of video captions, or a file. By default video_caption_short_v1 for builtin-lang, else
video_caption_v1."""


def run(
    videos: Annotated[list[str], option("Video, directory, glob, tar or table; repeatable.", "PATH")],
    out: Annotated[Path, out_option("Directory of the results; the same command completes it.", "DIR")],
    captioner: Annotated[str | None, option(CAPTIONER, "MODEL", MODEL)] = None,
    frame_captioner: Annotated[
        str | None, option("Captioner of frames [default: that of videos].", "MODEL", MODEL)
    ] = None,
    llm: Annotated[str | None, option(LLM, "MODEL", MODEL)] = None,
    video_prompt: Annotated[str | None, option(VIDEO_PROMPT, "NAME", MODEL)] = None,
    frame_prompt: Annotated[str, option("Prompt of frame captions, or a file.", "NAME", MODEL)] = "frame_caption_v1",
    summary_prompt: Annotated[str, option("Prompt of summaries, or a file.", "NAME", MODEL)] = "summary_v1",
    frames: Annotated[int, option("Frames that the captioner sees.", panel=MEDIA, least=1)] = 8,
    captioned_frames: Annotated[int, option("Frames captioned alone.", panel=MEDIA, least=1)] = 3,
    longest: Annotated[float, option("Seconds from which videos are cut.", panel=MEDIA, least=0)] = 30.0,
    workers: Annotated[int, option("Processes that decode.", panel=SPEED, least=1)] = 2,
    batch_size: Annotated[int, option("Clips or requests at a time.", panel=SPEED, least=1)] = 8,
    timeout: Annotated[float, option("Seconds for one attempt at one item.", panel=SPEED, least=0)] = 120.0,
    tries: Annotated[int, option("Attempts at one item.", panel=SPEED, least=1)] = 3,
    ray: Annotated[str | None, option("Ray cluster: auto, HOST:PORT or local.", "ADDRESS", SPEED)] = None,
    gpu_share: Annotated[float, option("Share of a GPU for a model on a cluster.", panel=SPEED, least=0)] = 1.0,
    shard_size: Annotated[int, option("Clips of a shard.", panel=OUTPUT, least=1)] = 1000,
    retry: Annotated[bool, flag("--retry", "Try what is in quarantine again.")] = False,
    json: shared.Json = False,
    strict: shared.Strict = False,
) -> None:
    """Caption videos for training.

    Long videos are cut at shot changes. Each clip gets a video caption, captions of single frames, and a summary that a
    language model makes of them and of the title and description (in the file, or in clip.json or clip.info.json beside
    clip.mp4). One model may do all three; the demo model cannot be mixed with others. DIR gets captions.parquet,
    WebDataset shards, every intermediate result, and quarantine.jsonl with the videos that failed and why. A run that
    was stopped or killed goes on when the same command is repeated. The key of an endpoint is read from OPENAI_API_KEY.

    Examples:

        pe engine run --videos clips/ -o captioned/ --captioner facebook/Perception-LM-1B
        pe engine run --videos "clips/*.mp4" -o captioned/ --captioner http://127.0.0.1:8000/v1#qwen3-vl
        pe engine run --videos shard.tar -o captioned/ --captioner hf:HuggingFaceTB/SmolVLM2-2.2B-Instruct
        pe annotate captioned/
        pe train video_finetune_b16 --shards captioned/shards
    """
    from perception_encoder.cli.engine.table import live_table
    from perception_encoder.inference.listing import check_paths
    from perception_encoder.video_data_engine.config import CutConfig, EngineConfig, WorkConfig
    from perception_encoder.video_data_engine.run import run_engine

    check_paths(videos)
    captioner = default_model.language_model(captioner)
    config = EngineConfig(
        captioner=captioner, frame_captioner=frame_captioner or "", llm=llm or "",
        video_prompt=video_prompt or "", frame_prompt=frame_prompt, summary_prompt=summary_prompt,
        frames=frames, captioned_frames=captioned_frames, cut=CutConfig(longest=longest),
    )  # fmt: skip
    work = WorkConfig(
        workers=workers, batch_size=batch_size, timeout=timeout, tries=tries, gpu_share=gpu_share,
        shard_samples=shard_size,
    )  # fmt: skip
    default_model.print_demo(config.captioner, config.frame_captioner, config.llm)
    try:
        with live_table() as show:
            report = run_engine(videos, out, config, work, ray=ray, retry=retry, listener=show)
    except KeyboardInterrupt:
        output.print_warning("stopped; what is done is stored, and the same command goes on")
        raise typer.Exit(output.INTERRUPTED) from None
    raise typer.Exit(_show(report, out, json, strict))


def _show(report: EngineReport, out: Path, json: bool, strict: bool) -> int:
    """Print the table of stages, or JSON, and the failures; returns the exit status."""
    from perception_encoder.cli.engine.table import COLUMNS, speed_line, stage_cells

    failures = [InputError(each.source, f"{each.stage}: {each.reason}") for each in report.quarantine]
    if json:
        output.print_json(report.to_json())
    else:
        output.print_table(COLUMNS, stage_cells(report))
        output.print_remark(f"{speed_line(report)}: {out}")
    return output.input_status(failures, report.clips + len(failures), strict)
