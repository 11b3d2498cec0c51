"""`pe engine prompts`: print the prompts of the video data engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from perception_encoder.cli import options as shared
from perception_encoder.cli import output
from perception_encoder.cli.options import argument


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
