"""The stages of the engine, each a small function of records, which every runner shares."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from perception_encoder.errors import EndpointError, InputError, PerceptionEncoderError
from perception_encoder.inference.conversation.assistant import Assistant, describe_assistant
from perception_encoder.language_alignment.load import is_endpoint, load_assistant
from perception_encoder.preprocess.conversation import Message, Reply, Sampling, ask
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.video_data_engine.answers import Attempts, answer_each
from perception_encoder.video_data_engine.config import CutConfig, EngineConfig, WorkConfig
from perception_encoder.video_data_engine.prompts import EnginePrompt, load_prompt
from perception_encoder.video_data_engine.record import (
    FRAME_CAPTIONS,
    FRAMES,
    PROBE,
    SUMMARY,
    VIDEO_CAPTION,
    Cause,
    ClipRecord,
    Outcome,
    StageFailure,
    StageResult,
)
from perception_encoder.video_data_engine.videos.probe import probe_video
from perception_encoder.video_data_engine.videos.sampling import open_clip_frames, sample_clip

Handler = Callable[[Sequence[ClipRecord]], list[Outcome]]
"""Takes records through a stage: an outcome for each, in order."""
DECODING = "decoding"
"""The group of the stages that decode."""
Models = dict[str, Assistant]
"""The models of a process by name, so that two stages share one."""
_QUOTED = re.compile(r"""\"([^"]+)\"|'((?:[^']|(?<=\w)'(?=\w))+)'""")
"""A text in quotes with none inside; an apostrophe in a word is not one."""


class EngineStage(Protocol):
    """A stage before its model is loaded; it is pickled to where it runs."""

    @property
    def name(self) -> str:
        """One of `STAGES`."""
        ...

    @property
    def group(self) -> str:
        """Stages of one group share processes: `DECODING`, or a model's name."""
        ...

    @property
    def batch_size(self) -> int:
        """Most records that are handled together."""
        ...

    @property
    def seconds(self) -> float:
        """Seconds that one record may take."""
        ...

    def open(self, models: Models) -> tuple[Handler, dict[str, Any]]:
        """Load what the stage needs; return what handles records, and what is stored of the model."""
        ...


@dataclass(frozen=True, kw_only=True)
class ProbeStage:
    """Reads what a video holds and where it is cut."""

    cut: CutConfig
    seconds: float
    name: str = PROBE
    group: str = DECODING
    batch_size: int = 1

    def open(self, models: Models) -> tuple[Handler, dict[str, Any]]:
        """See `EngineStage`."""
        return _each(PROBE, lambda record: (probe_video(record, self.cut), ())), {}


@dataclass(frozen=True, kw_only=True)
class FramesStage:
    """Decodes the frames of a clip."""

    count: int
    side: int
    seconds: float
    name: str = FRAMES
    group: str = DECODING
    batch_size: int = 1

    def open(self, models: Models) -> tuple[Handler, dict[str, Any]]:
        """See `EngineStage`."""
        return _each(FRAMES, lambda record: sample_clip(record, self.count, self.side)), {}


@dataclass(frozen=True, kw_only=True)
class AnswerStage:
    """Puts questions about each clip to a model."""

    name: str
    model: str
    prompt: EnginePrompt
    sampling: Sampling
    captioned_frames: int
    """Frames that are captioned, in that stage."""
    work: WorkConfig
    batch_size: int

    @property
    def group(self) -> str:
        """See `EngineStage`."""
        return self.model

    @property
    def seconds(self) -> float:
        """See `EngineStage`."""
        questions = self.captioned_frames if self.name == FRAME_CAPTIONS else 1
        if not is_endpoint(self.model):
            return self.work.timeout * questions
        pauses = self.work.pause * 2**self.work.tries
        return (self.work.timeout * self.work.tries + pauses) * questions + 10  # if it does not keep its own time

    def open(self, models: Models) -> tuple[Handler, dict[str, Any]]:
        """See `EngineStage`."""
        if self.model not in models:
            models[self.model] = load_assistant(self.model, timeout=self.work.timeout, text_only=self.name == SUMMARY)
        generator = models[self.model]
        facts = {**describe_assistant(generator), "prompt": self.prompt.name, "prompt_hash": self.prompt.hash}
        return lambda records: self._handle(generator, records), facts

    def _handle(self, generator: Assistant, records: Sequence[ClipRecord]) -> list[Outcome]:
        started = time.perf_counter()
        questions = [self._conversations(record) for record in records]
        attempts = Attempts(tries=self.work.tries, pause=self.work.pause)
        threads = self.work.batch_size if is_endpoint(self.model) else 1
        every = [conversation for own in questions for conversation in own]
        replies = iter(answer_each(generator, every, self.sampling, attempts, threads))
        answers = [[next(replies) for _ in own] for own in questions]
        seconds = (time.perf_counter() - started) / len(records)
        return [self._outcome(record, own, seconds) for record, own in zip(records, answers, strict=True)]

    def _conversations(self, record: ClipRecord) -> list[list[Message]]:
        if self.name == SUMMARY:
            return [ask(self.prompt.fill(_summary_fields(record)))]
        frames = open_clip_frames(record)
        if self.name == VIDEO_CAPTION:
            return [ask(self.prompt.text, [frames])]
        return [ask(self.prompt.text, [frames.images[number]]) for number in self._frame_numbers(record)]

    def _frame_numbers(self, record: ClipRecord) -> list[int]:
        count = len(record.results[FRAMES]["times"])
        return spread_indices(count, min(count, self.captioned_frames))

    def _outcome(
        self, record: ClipRecord, answers: Sequence[Reply | PerceptionEncoderError], seconds: float
    ) -> Outcome:
        replies = [answer for answer in answers if isinstance(answer, Reply)]
        for answer in answers:
            if not isinstance(answer, Reply):
                passing = isinstance(answer, EndpointError) and answer.scope == "attempt"
                return _failure(record, self.name, str(answer), "service" if passing else "model", seconds)
        value: dict[str, Any] = {"tokens": sum(reply.tokens for reply in replies)}
        if self.name == FRAME_CAPTIONS:
            times = record.results[FRAMES]["times"]
            value["times"] = [times[number] for number in self._frame_numbers(record)]
            value["captions"] = [_one_line(reply.text) for reply in replies]
        else:
            value["text"] = _one_line(replies[0].text)
        value["finished"] = all(reply.finished for reply in replies)
        return StageResult(key=record.key, stage=self.name, value=value, seconds=seconds)


def make_stages(config: EngineConfig, work: WorkConfig) -> list[EngineStage]:
    """Return the stages of a configuration in order; ConfigError for a prompt that cannot be read."""

    def answers(name: str, model: str, prompt: str, tokens: int) -> AnswerStage:
        return AnswerStage(
            name=name,
            model=model,
            prompt=load_prompt(prompt) if name == SUMMARY else load_prompt(prompt, ()),
            sampling=Sampling(max_tokens=tokens),
            captioned_frames=config.captioned_frames,
            work=work,
            batch_size=work.batch_size,
        )

    return [
        ProbeStage(cut=config.cut, seconds=work.timeout),
        FramesStage(count=config.frames, side=config.side, seconds=work.timeout),
        answers(VIDEO_CAPTION, config.captioner, config.video_prompt, config.video_tokens),
        answers(FRAME_CAPTIONS, config.frame_captioner, config.frame_prompt, config.frame_tokens),
        answers(SUMMARY, config.llm, config.summary_prompt, config.summary_tokens),
    ]


def _summary_fields(record: ClipRecord) -> dict[str, str]:
    """The fields of the summary's prompt; what is unknown is a dash."""
    metadata = record.results[PROBE]["metadata"]
    captions = record.results[FRAME_CAPTIONS]["captions"]
    names = ("title", "description", "keywords")
    lines = [f"{name.capitalize()}: {metadata[name]}" for name in names if name in metadata]
    return {
        **{name: metadata.get(name, "-") for name in names},
        "metadata": "\n".join(lines) or "Title: -",
        "video_caption": record.results[VIDEO_CAPTION]["text"],
        "frame_captions": "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions, 1)),
    }


def _one_line(text: str) -> str:
    """A caption on one line, without quotes around all of it; letters that a server cut in two are joined."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    line = " ".join(whole.split())
    match = _QUOTED.fullmatch(line)
    return (match[1] or match[2]).strip() if match else line


def _each(stage: str, work: Callable[[ClipRecord], tuple[dict[str, Any], tuple[bytes, ...]]]) -> Handler:
    """A handler that takes records one by one; an InputError is a failure of the video."""

    def handle(records: Sequence[ClipRecord]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for record in records:
            started = time.perf_counter()
            try:
                value, frames = work(record)
                seconds = time.perf_counter() - started
                outcomes.append(StageResult(key=record.key, stage=stage, value=value, frames=frames, seconds=seconds))
            except InputError as error:
                outcomes.append(_failure(record, stage, error.reason, "video", time.perf_counter() - started))
        return outcomes

    return handle


def _failure(record: ClipRecord, stage: str, reason: str, cause: Cause, seconds: float) -> StageFailure:
    return StageFailure(
        key=record.key, stage=stage, source=record.item.name, reason=reason, cause=cause, seconds=seconds
    )
