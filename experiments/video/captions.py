"""Captions of the clips by the engine: of the first captioner, and of the one refined on corrected captions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.video.clips import Clip
from perception_encoder.conversation.assistant import Assistant
from perception_encoder.formats.tables import read_table
from perception_encoder.language_models.weights import WEIGHTS, find_language_model, read_trained
from perception_encoder.models.checkpoints.files import write_tensors
from perception_encoder.models.registry import BUILTIN_LANG
from perception_encoder.preprocess.conversation import Message, Reply, Sampling
from perception_encoder.progress import Track, untracked
from perception_encoder.video_data_engine.config import FRAME_CAPTION, EngineConfig, WorkConfig
from perception_encoder.video_data_engine.outputs import CAPTIONS
from perception_encoder.video_data_engine.refine import refine_captioner
from perception_encoder.video_data_engine.run import EngineListener, caption_videos

FRAMES = 4
"""Of a clip that the captioner sees."""
POOL = 2
"""Tokens along a side that are averaged: the built-in model's own 196 tokens a frame would take four times as long."""
NOTHING = f"python:{__name__}:load_silent"
"""A model for the stages that a phase does not need."""


@dataclass(frozen=True)
class Captions:
    """What the engine says about a clip."""

    video_id: str
    """The engine's key."""
    video: str
    frames: tuple[str, ...]
    summary: str


class Silent(Assistant):
    """Answers "nothing"."""

    name = "none"

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """See `Assistant`."""
        return [Reply("nothing", 0, 1, True) for _ in conversations]


def load_silent() -> Silent:
    """Return the model that `NOTHING` names."""
    return Silent()


def first_captioner(out: Path) -> Path:
    """Write the built-in language model with fewer tokens a frame, unless it is there; return its file."""
    path = out / WEIGHTS
    if not path.is_file():
        parts, state = read_trained(Path(find_language_model(BUILTIN_LANG)))
        parts = dataclasses.replace(parts, pool=POOL)
        write_tensors(dict(state), path, {"language": json.dumps(dataclasses.asdict(parts))})
    return path


def caption(
    clips: Sequence[Clip],
    out: Path,
    captioner: Path,
    frame_captioner: Path | None = None,
    llm: str = NOTHING,
    listener: EngineListener | None = None,
) -> dict[str, Captions]:
    """Run the engine on clips, or resume that; return their captions by key.

    Without `frame_captioner` and `llm` only the whole clips are captioned.
    """
    config = EngineConfig(
        captioner=str(captioner),
        frame_captioner=str(frame_captioner or NOTHING),
        llm=llm,
        video_prompt=FRAME_CAPTION,
        frames=FRAMES,
        captioned_frames=2 if frame_captioner else 1,
        side=224,
        video_tokens=64,
        frame_tokens=32,
        summary_tokens=64,
    )
    caption_videos([clip.path for clip in clips], out, config, WorkConfig(workers=1), listener=listener)
    rows = {Path(str(row["path"])).stem: row for row in read_table(out / CAPTIONS)}
    return {
        clip.key: Captions(row["video_id"], row["video_caption"], tuple(row["frame_captions"]), row["summary"])
        for clip in clips
        if (row := rows.get(clip.key)) is not None
    }


def refined_captioner(
    captioner: Path, engine: Path, refined: Mapping[str, str], out: Path, steps: int, track: Track = untracked
) -> Path:
    """Finetune a captioner on refined captions, by the engine's `video_id`, or resume that; return its file."""
    settings = {"frames": FRAMES, "steps": steps, "checkpoint_every": 20, "validation": None}
    return refine_captioner(engine, out, refined, captioner, settings=settings, track=track)
