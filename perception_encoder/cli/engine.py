"""`pe engine`: caption videos for training, print the prompts, and refine the captioner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.groups import lazy_group
from perception_encoder.cli.language import FORMS
from perception_encoder.cli.options import MEDIA, MODEL, OUTPUT, SPEED, argument, flag, model_option, option, out_option
from perception_encoder.cli.progress import progress, reporter, track
from perception_encoder.errors import DataError, InputError

if TYPE_CHECKING:
    from perception_encoder.video_data_engine.report import EngineReport

COMMANDS = {"Commands": {"run": "engine:run", "prompts": "engine:prompts", "refine": "engine:refine"}}
app = lazy_group(COMMANDS)
CAPTIONER = f"Captioner of videos: {FORMS} [default: see `pe models use`]."
LLM = "Model of the summary: the same forms, and smollm2 or a GGUF file [default: the captioner of videos]."
VIDEO_PROMPT = """Prompt of video captions, or a file. By default video_caption_short_v1 for builtin-lang, else
video_caption_v1."""
COLUMNS = ("stage", "done", "failed", "seconds", "share")
CAPTIONS = "Table of video_id and human_caption, or a file of `pe annotate` [default: DIR/annotations.sqlite]."


@app.callback()
def engine() -> None:
    """Make captioned clips of raw videos.

    The paper's video data engine: a captioner describes each clip and some of its frames, and a language model blends
    that with the video's metadata into one short caption to train on.

    Examples:

        pe engine run --videos clips/ -o captioned/
        pe engine prompts
        pe engine refine captioned/ --captions corrected.csv -o runs/refined
    """


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
    WebDataset shards, every intermediate result, and quarantine.jsonl with the videos that failed and why. Rerun the
    same command to resume a run that was stopped or killed. The key of an endpoint is read from OPENAI_API_KEY.

    Examples:

        pe engine run --videos clips/ -o captioned/ --captioner facebook/Perception-LM-1B
        pe engine run --videos "clips/*.mp4" -o captioned/ --captioner http://127.0.0.1:8000/v1#qwen3-vl
        pe engine run --videos shard.tar -o captioned/ --captioner hf:HuggingFaceTB/SmolVLM2-2.2B-Instruct
        pe annotate captioned/
        pe train video_finetune_b16 --shards captioned/shards
    """
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
        output.print_warning("stopped; rerun the same command to resume")
        raise typer.Exit(output.INTERRUPTED) from None
    raise typer.Exit(_show(report, out, json, strict))


def _show(report: EngineReport, out: Path, json: bool, strict: bool) -> int:
    """Print the table of stages, or JSON, and the failures; returns the exit status."""

    failures = [InputError(each.source, f"{each.stage}: {each.reason}") for each in report.quarantine]
    if json:
        output.print_json(report.to_json())
    else:
        output.print_table(COLUMNS, stage_cells(report))
        output.print_remark(f"{speed_line(report)}: {out}")
    return output.input_status(failures, report.clips, strict)


def stage_cells(report: EngineReport) -> list[list[str]]:
    """Return the cells of the table, a row for each stage."""
    return [
        [row.stage, str(row.done), str(row.failed), f"{row.seconds:.1f}", f"{row.share:.0%}"] for row in report.rows()
    ]


def speed_line(report: EngineReport) -> str:
    """Return how far and how fast a run is, in one line."""
    return (
        f"{report.done['probe']} of {report.videos - report.skipped} videos, {report.clips} clips finished, "
        f"{report.videos_per_minute:.1f} videos/min, {report.frames_per_second:.0f} frames/s decoded in a process"
    )


@contextmanager
def live_table() -> Iterator[Callable[[EngineReport], None]]:
    """Show the table on stderr while the block runs, if it is a terminal; yields what takes each new report."""
    if not output.error_console.is_terminal:
        yield lambda report: None
        return
    with Live(console=output.error_console, refresh_per_second=2, transient=True) as live:
        yield lambda report: live.update(_table(report))


def _table(report: EngineReport) -> Group:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "stage" else "right")
    for cells in stage_cells(report):
        table.add_row(*cells)
    return Group(table, Text(speed_line(report), style="dim"))


def prompts(
    name: Annotated[str | None, argument("NAME", "A prompt, to print its text alone.")] = None,
    json: shared.Json = False,
) -> None:
    """Print the prompts of the engine.

    Each is a versioned file of this package; a changed text gets a new version. Give one, or a text file of your own,
    to `pe engine run`.

    Examples:

        pe engine prompts
        pe engine prompts summary_v1 > my_summary.txt
    """
    from perception_encoder.video_data_engine.prompts import list_prompts, load_prompt

    every = list_prompts() if name is None else [load_prompt(name)]
    if json:
        output.print_json([asdict(prompt) | {"hash": prompt.hash} for prompt in every])
    elif name is not None:
        for line in every[0].text.splitlines():
            output.print_line(line)
    else:
        for prompt in every:
            output.print_line(f"{prompt.name}  {prompt.hash}")
            for line in prompt.text.splitlines():
                output.print_line(f"    {line}")


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
    from perception_encoder.training.settings import override
    from perception_encoder.video_data_engine.refine import find_video_prompt, refine_captioner, refinement
    from perception_encoder.video_data_engine.settings import read_engine_settings

    video_prompt = find_video_prompt(engine)
    captioner = model or read_engine_settings(engine)["config"].get("captioner", "")
    texts = _read_corrections(engine, captions)
    default_model.print_demo(captioner)
    config = override(refinement(captioner), set_ or [])
    logging.getLogger("perception_encoder.training.loop").setLevel(logging.INFO)  # it reports that a run resumes
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
