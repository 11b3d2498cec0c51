"""Configure a run of the engine; the settings that results depend on are stored beside them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.text.decoder import SMOLLM2
from perception_encoder.models.registry import BUILTIN_LANG
from perception_encoder.video_data_engine.prompts import FRAME_CAPTION, SUMMARY, VIDEO_CAPTION, VIDEO_CAPTION_SHORT


@dataclass(frozen=True, kw_only=True)
class CutConfig:
    """How long videos are cut."""

    longest: float = 30.0
    """Seconds. A longer video is cut at its shot changes, and what is still longer evenly."""
    shortest: float = 2.0
    """Seconds. A shorter shot joins the one before it."""
    every: float = 0.25
    """Seconds between the frames in which shot changes are looked for."""
    shot_change: float = 0.4
    """Share of the image whose colours must change from one frame to the next for a cut, in 0–1."""

    def __post_init__(self) -> None:
        if not 0 < 2 * self.shortest <= self.longest:
            raise ConfigError(
                f"the longest clip is {self.longest:g} s and the shortest {self.shortest:g} s; "
                "the longest must be at least twice as long as the shortest, and both above 0"
            )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What is made of each video."""

    captioner: str = BUILTIN_LANG
    """The model that captions videos; see `load_assistant` for its forms."""
    frame_captioner: str = ""
    """The model that captions single frames; if empty, that of videos."""
    llm: str = ""
    """The model that writes the summary; if empty, the captioner of videos, and SmolLM2 with the built-in one."""
    video_prompt: str = ""
    """The prompt of the video's caption: a name of `pe engine prompts`, or a file. If empty it becomes the short one
    for the built-in captioner, which follows no other, else the detailed one."""
    frame_prompt: str = FRAME_CAPTION
    summary_prompt: str = SUMMARY
    cut: CutConfig = field(default_factory=CutConfig)
    frames: int = 8
    """Frames of a clip that the captioner sees, chosen as the published PLM chooses them."""
    captioned_frames: int = 3
    """How many of these are captioned alone, evenly apart; the paper leaves their number open."""
    side: int = 448
    """Short side to which larger frames are reduced, in pixels."""
    video_tokens: int = 160
    """Most tokens of a video's caption; the published ones have 112 words on average."""
    frame_tokens: int = 48
    summary_tokens: int = 160
    """Most tokens of a summary: its prompt asks for about 120."""

    def __post_init__(self) -> None:
        for name, value in (("frame_captioner", self.captioner), ("llm", self.captioner)):
            if not getattr(self, name):
                value = SMOLLM2 if (name, value) == ("llm", BUILTIN_LANG) else value
                object.__setattr__(self, name, value)
        models = {self.captioner, self.frame_captioner, self.llm} - {SMOLLM2}
        if BUILTIN_LANG in models and len(models) > 1:
            other = min(models - {BUILTIN_LANG})
            raise ConfigError(
                f"{BUILTIN_LANG} is a demo model, and {other} is not; give both captioners and the language model "
                f"without {BUILTIN_LANG}, or try the engine with {BUILTIN_LANG} alone"
            )
        if not self.video_prompt:
            prompt = VIDEO_CAPTION_SHORT if self.captioner == BUILTIN_LANG else VIDEO_CAPTION
            object.__setattr__(self, "video_prompt", prompt)
        counts = ("frames", "captioned_frames", "side", "video_tokens", "frame_tokens", "summary_tokens")
        if small := [name for name in counts if getattr(self, name) < 1]:
            raise ConfigError(f"{small[0]} is {getattr(self, small[0])}; it must be at least 1")
        if self.captioned_frames > self.frames:
            raise ConfigError(f"captioned_frames is {self.captioned_frames}; a clip has {self.frames} frames")

    def to_json(self) -> dict[str, Any]:
        """Its fields, nested ones as objects."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class WorkConfig:
    """How the work is done; results do not depend on it."""

    workers: int = 2
    """Processes that decode."""
    batch_size: int = 8
    """Clips that a model captions together, and requests that an endpoint gets at a time."""
    timeout: float = 120.0
    """Seconds for one attempt at one item: a video's probing or decoding, or an answer."""
    tries: int = 3
    """Attempts, if a worker dies, a time runs out or an endpoint fails."""
    pause: float = 1.0
    """Seconds before the second attempt at an endpoint; each further pause is twice as long."""
    gpu_share: float = 1.0
    """Share of a GPU that a model takes on a cluster: 0.5 puts two on each."""
    shard_samples: int = 1000
    """Clips of a WebDataset shard."""
    failures_in_a_row: int = 5
    """Failures of a service in a row after which the run stops, since it is out of order."""

    def __post_init__(self) -> None:
        for name in ("workers", "batch_size", "tries", "shard_samples", "failures_in_a_row"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.gpu_share <= 1:
            raise ConfigError(f"gpu_share is {self.gpu_share:g}; it must be above 0 and at most 1")
        if self.timeout <= 0 or self.pause < 0:
            raise ConfigError(f"timeout is {self.timeout:g} s and pause {self.pause:g} s; the timeout must be above 0")
