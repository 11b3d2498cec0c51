"""The stages of the engine: functions of records, shared by all runners."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from perception_encoder.conversation.assistant import Assistant, answer_all
from perception_encoder.errors import EndpointError, InputError, PerceptionEncoderError
from perception_encoder.language_models.load import is_endpoint, load_assistant
from perception_encoder.preprocess.conversation import Message, Reply, Sampling, ask
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.video_data_engine.config import EngineConfig, EnginePrompt, WorkConfig, load_prompt
from perception_encoder.video_data_engine.journal import (
    FRAME_CAPTIONS,
    FRAMES,
    PROBE,
    SUMMARY,
    VIDEO_CAPTION,
    ClipRecord,
    Outcome,
    StageResult,
)
from perception_encoder.video_data_engine.videos import open_clip_frames, probe_video, sample_clip

Handler = Callable[[Sequence[ClipRecord]], list[Outcome]]
"""Takes records through a stage and returns their outcomes in order."""
DECODING = "decoding"
"""The group of decoding stages."""
Models = dict[str, Assistant]
"""Models of a process by name, shared by its stages."""
_QUOTED = re.compile(r"""\"([^"]+)\"|'((?:[^']|(?<=\w)'(?=\w))+)'""")
"""A text in quotes without inner quotes; an apostrophe in a word is not a quote."""


@dataclass(frozen=True, kw_only=True)
class DecodingStage:
    """A stage that reads the video, one record at a time; pickled to its worker."""

    name: str
    function: Callable[[ClipRecord], tuple[dict[str, Any], tuple[bytes, ...]]]
    """Returns the result and the frames; an InputError means that the video failed."""
    seconds: float
    """Time limit of a record."""
    group: str = DECODING
    """Stages of one group share processes."""
    batch_size: int = 1
    """Maximum number of records handled together."""

    def open(self, models: Models) -> tuple[Handler, dict[str, Any]]:
        """Return a function that handles records, and no facts to store."""
        return self._handle, {}

    def _handle(self, records: Sequence[ClipRecord]) -> list[Outcome]:
        return [self._outcome(record, time.perf_counter()) for record in records]

    def _outcome(self, record: ClipRecord, started: float) -> Outcome:
        try:
            value, frames = self.function(record)
        except InputError as error:
            return record.failure(self.name, error.reason, seconds=time.perf_counter() - started)
        seconds = time.perf_counter() - started
        return StageResult(key=record.key, stage=self.name, value=value, frames=frames, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class AnswerStage:
    """A stage that asks a model about each clip; pickled to the model's worker."""

    name: str
    group: str
    """The model; stages with the same one share a process."""
    prompt: EnginePrompt
    sampling: Sampling
    captioned_frames: int
    """Number of frames to caption one by one, in that stage."""
    work: WorkConfig
    seconds: float
    """Time limit of a record."""
    batch_size: int
    """Maximum number of records handled together."""

    def open(self, models: Models) -> tuple[Handler, dict[str, Any]]:
        """Load the model; return a function that handles records, and the model's facts to store."""
        if self.group not in models:
            models[self.group] = load_assistant(self.group, timeout=self.work.timeout, text_only=self.name == SUMMARY)
        assistant = models[self.group]
        facts = {**assistant.describe(), "prompt": self.prompt.name, "prompt_hash": self.prompt.hash}
        return partial(self._handle, assistant), facts

    def _handle(self, assistant: Assistant, records: Sequence[ClipRecord]) -> list[Outcome]:
        started = time.perf_counter()
        questions = [self._conversations(record) for record in records]
        threads = min(self.batch_size, assistant.threads)
        flat = [*itertools.chain(*questions)]
        replies = iter(answer_all(assistant, flat, self.sampling, self.work.tries, self.work.pause, threads))
        answers = [[next(replies) for _ in conversations] for conversations in questions]
        seconds = (time.perf_counter() - started) / len(records)
        return [self._outcome(record, replies, seconds) for record, replies in zip(records, answers, strict=True)]

    def _conversations(self, record: ClipRecord) -> list[list[Message]]:
        if self.name == SUMMARY:
            return [ask(self.prompt.fill(_summary_fields(record)))]
        frames = open_clip_frames(record)
        if self.name == VIDEO_CAPTION:
            return [ask(self.prompt.text, [frames])]
        return [ask(self.prompt.text, [frames.images[index]]) for index in self._frame_indices(record)]

    def _frame_indices(self, record: ClipRecord) -> list[int]:
        count = len(record.results[FRAMES]["times"])
        return spread_indices(count, min(count, self.captioned_frames))

    def _outcome(
        self, record: ClipRecord, answers: Sequence[Reply | PerceptionEncoderError], seconds: float
    ) -> Outcome:
        replies: list[Reply] = []
        for answer in answers:
            if not isinstance(answer, Reply):
                temporary = isinstance(answer, EndpointError) and answer.scope == "attempt"
                return record.failure(self.name, str(answer), "service" if temporary else "model", seconds)
            replies.append(answer)
        captions = [_caption_line(reply.text) for reply in replies]
        value: dict[str, Any] = {"finished": all(reply.finished for reply in replies)}
        if self.name == FRAME_CAPTIONS:
            times = record.results[FRAMES]["times"]
            value |= {"times": [times[index] for index in self._frame_indices(record)], "captions": captions}
        else:
            value["text"] = captions[0]
        return StageResult(key=record.key, stage=self.name, value=value, seconds=seconds)


EngineStage = DecodingStage | AnswerStage


def make_stages(config: EngineConfig, work: WorkConfig) -> list[EngineStage]:
    """Return the stages of a configuration in order; ConfigError for an unreadable prompt."""

    def answers(name: str, model: str, prompt: str, tokens: int) -> AnswerStage:
        seconds = work.timeout
        if is_endpoint(model):  # whose client has a timeout of its own, which comes first
            seconds = work.timeout * work.tries + work.pause * 2**work.tries + 10
        return AnswerStage(
            name=name,
            group=model,
            prompt=load_prompt(prompt) if name == SUMMARY else load_prompt(prompt, ()),
            sampling=Sampling(max_tokens=tokens),
            captioned_frames=config.captioned_frames,
            work=work,
            seconds=seconds * (config.captioned_frames if name == FRAME_CAPTIONS else 1),
            batch_size=work.batch_size,
        )

    sample = partial(sample_clip, count=config.frames, side=config.side)
    return [
        DecodingStage(name=PROBE, function=partial(_probe, config=config), seconds=work.timeout),
        DecodingStage(name=FRAMES, function=sample, seconds=work.timeout),
        answers(VIDEO_CAPTION, config.captioner, config.video_prompt, config.video_tokens),
        answers(FRAME_CAPTIONS, config.frame_captioner, config.frame_prompt, config.frame_tokens),
        answers(SUMMARY, config.llm, config.summary_prompt, config.summary_tokens),
    ]


def _probe(record: ClipRecord, config: EngineConfig) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    return probe_video(record, config), ()


def _summary_fields(record: ClipRecord) -> dict[str, str]:
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


def _caption_line(text: str) -> str:
    """Return a caption on one line without surrounding quotes, joining characters that a server split in two."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    line = " ".join(whole.split())
    match = _QUOTED.fullmatch(line)
    return (match[1] or match[2]).strip() if match else line
