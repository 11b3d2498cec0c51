"""`pe engine`: caption videos for training, and refine the captioner."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options as shared
from perception_encoder.cli import output
from perception_encoder.cli.groups import lazy_group
from perception_encoder.cli.options import MEDIA, MODEL, SPEED, argument, flag, model_option, option, out_option
from perception_encoder.cli.output import progress, reporter, track
from perception_encoder.errors import InputError
from perception_encoder.models.defaults import language_model

COMMANDS = {"Commands": {"run": "engine:run", "refine": "engine:refine"}}
app = lazy_group(COMMANDS)
CAPTIONER = f"Captioner of videos: {shared.LANGUAGE_MODELS} [default: see `pe models use`]."
LLM = "Model of the summary: the same forms, smollm2 or a GGUF file [default: the captioner of videos]."
VIDEO_PROMPT = "Prompt of video captions [default: video_caption_v1, or video_caption_short_v1 for builtin-lang]."
CAPTIONS = "Table of video_id and human_caption, or a file of `pe annotate` [default: DIR/annotations.sqlite]."


@app.callback()
def engine() -> None:
    """Turn raw videos into captioned clips.

    The paper's video data engine: a captioner describes each clip and some of its frames, and a language model blends
    that with the video's metadata into one short caption to train on.

    Examples:

        pe engine run --videos clips/ -o captioned/
        pe engine refine captioned/ --captions corrected.csv -o runs/refined
    """


def run(
    videos: Annotated[list[str], option("Video, directory, glob, tar or table; repeatable.", "PATH")],
    out: Annotated[Path, out_option("Directory of the results; rerun to resume.", "DIR")],
    captioner: Annotated[str | None, option(CAPTIONER, "MODEL", MODEL)] = None,
    frame_captioner: Annotated[
        str | None, option("Captioner of single frames [default: that of videos].", "MODEL", MODEL)
    ] = None,
    llm: Annotated[str | None, option(LLM, "MODEL", MODEL)] = None,
    video_prompt: Annotated[str | None, option(VIDEO_PROMPT, "NAME", MODEL, advanced=True)] = None,
    frame_prompt: Annotated[
        str, option("Prompt of frame captions: a name or a text file.", "NAME", MODEL, advanced=True)
    ] = "frame_caption_v1",
    summary_prompt: Annotated[
        str, option("Prompt of summaries: a name or a text file.", "NAME", MODEL, advanced=True)
    ] = "summary_v1",
    frames: Annotated[int, option("Frames of a clip that the captioner sees.", panel=MEDIA, least=1)] = 8,
    captioned_frames: Annotated[
        int, option("Frames of a clip that are also captioned one by one.", panel=MEDIA, least=1, advanced=True)
    ] = 3,
    longest: Annotated[float, option("Split videos longer than this many seconds.", panel=MEDIA, least=0)] = 30.0,
    workers: Annotated[int, option("Processes that decode videos.", panel=SPEED, least=1)] = 2,
    batch_size: Annotated[
        int, option("Clips per batch, or concurrent requests to an endpoint.", panel=SPEED, least=1, advanced=True)
    ] = 8,
    timeout: Annotated[
        float, option("Seconds for one attempt at one item.", panel=SPEED, least=0, advanced=True)
    ] = 120.0,
    tries: Annotated[
        int, option("Attempts after crashes, timeouts and failed requests.", panel=SPEED, least=1, advanced=True)
    ] = 3,
    ray: Annotated[
        str | None, option("Ray cluster that does the work: auto, HOST:PORT or local.", "ADDRESS", SPEED, advanced=True)
    ] = None,
    retry: Annotated[bool, flag("--retry", "Also retry clips in quarantine.")] = False,
    json: shared.Json = False,
    strict: shared.Strict = False,
) -> None:
    """Caption videos for training.

    Long videos are split at shot changes. Each clip gets a video caption, captions of single frames, and a summary: a
    language model blends these with the title and description from the file, or from clip.json or clip.info.json beside
    clip.mp4. One model may do all three; the demo model cannot be combined with others.

    DIR gets captions.parquet, WebDataset shards, all intermediate results, and quarantine.jsonl: the failed videos with
    the reasons. Rerun the same command to resume an interrupted run. The key of an endpoint is read from
    OPENAI_API_KEY.

    Examples:

        pe engine run --videos clips/ -o captioned/ --captioner facebook/Perception-LM-1B
        pe engine run --videos "clips/*.mp4" -o captioned/ --captioner http://127.0.0.1:8000/v1#qwen3-vl
        pe engine run --videos shard.tar -o captioned/ --captioner hf:HuggingFaceTB/SmolVLM2-2.2B-Instruct
        pe annotate captioned/
        pe train video_finetune_b16 --shards captioned/shards
    """
    arguments = shared.without(locals(), "videos", "out", "captioner", "json", "strict")
    from perception_encoder.formats.listing import check_paths
    from perception_encoder.video_data_engine.run import run_engine

    check_paths(videos)
    captioner = language_model(captioner)
    output.print_demo(captioner, frame_captioner, llm)
    stopped = output.interruptible(lambda: "stopped; rerun the same command to resume")
    with stopped, progress("captioning clips") as advance:
        move = output.mover(advance)
        report = run_engine(videos, out, captioner, **arguments, listener=lambda now: move(now.done["summary"]))
    failures = [InputError(failure.source, f"{failure.stage}: {failure.reason}") for failure in report.quarantine]
    if json:
        output.print_json(report.to_dict())
    else:
        rows = [(row.stage, row.done, row.failed, f"{row.seconds:.1f}", f"{row.share:.0%}") for row in report.rows()]
        output.print_table(("stage", "done", "failed", "seconds", "share"), rows)
        probed = f"{report.done['probe']} of {report.videos - report.skipped} videos"
        speed = f"{report.videos_per_minute:.1f} videos/min"
        output.print_remark(f"{probed}, {report.clips} clips finished, {speed}: {out}")
    output.exit_with_skipped(failures, report.clips, strict)


def refine(
    engine: Annotated[Path, argument("DIR", "A directory of `pe engine run`.")],
    out: Annotated[Path, out_option("Directory of the run: checkpoints and weights.", "DIR")],
    captions: Annotated[Path | None, option(CAPTIONS, "FILE")] = None,
    model: Annotated[
        str | None,
        model_option("that of DIR", "facebook/Perception-LM-1B, or a run of `pe train` or `pe engine refine`"),
    ] = None,
    set_: shared.Overrides = None,
) -> None:
    """Finetune a captioner on refined captions.

    The paper's second phase: people correct the video captions, with `pe annotate DIR` or in a table, and the captioner
    learns from them. Its projector and adapters are trained on the clips with corrected captions; the encoder does not
    change. Of several annotations of a clip, the approved one counts, else the earliest. Settings are those of
    `pe train language_custom`. Rerun to resume an interrupted run. Needs the extra `train`.

    Examples:

        pe engine refine captioned/ -o runs/refined
        pe engine refine captioned/ --captions corrected.csv -o runs/refined --set steps=100 --set optimizer.lr=5e-5
        pe engine run --videos clips/ -o again/ --captioner runs/refined --video-prompt video_caption_short_v1
    """
    from perception_encoder.video_data_engine.refine import plan_refinement, refine_captioner

    planned = plan_refinement(engine, model, set_ or [])
    output.print_demo(planned.captioner)
    for name in ("loop", "run"):  # they report what is resumed and loaded
        logging.getLogger(f"perception_encoder.training.{name}").setLevel(logging.INFO)
    with progress("training", planned.steps) as advance:
        path = refine_captioner(
            engine, out, captions, model, settings=set_ or [], track=track, listener=reporter(advance)
        )
    output.print_line(f"weights: {path}")
    options = f"--captioner {path.parent} --video-prompt {planned.video_prompt}"
    output.print_line(f"try it: pe engine run --videos VIDEOS -o OUT {options}")
