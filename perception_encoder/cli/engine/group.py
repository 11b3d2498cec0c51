"""`pe engine`: the group of commands that caption videos for training."""

from __future__ import annotations

from perception_encoder.cli.groups import lazy_group

COMMANDS = {"Commands": {"run": "engine.run", "prompts": "engine.prompts", "refine": "engine.refine"}}

app = lazy_group(COMMANDS)


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
