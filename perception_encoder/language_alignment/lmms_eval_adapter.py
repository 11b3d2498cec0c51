"""Evaluate a language model with lmms-eval: the plug-in `perception_encoder`, an entry point of `lmms_eval.models`.

    python -m lmms_eval --model perception_encoder --model_args pretrained=builtin-lang,tiles=4 --tasks docvqa_val

Shows all images and videos of a sample in their places between the texts; lmms-eval's own adapter `plm` shows only one
of several images. lmms-eval is imported only when it loads the plug-in.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.conversation.assistant import Assistant
from perception_encoder.inference.conversation.media import FRAMES
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_alignment.load import load_language_model
from perception_encoder.models.registry import demo_note
from perception_encoder.preprocess.conversation import ContentPart, Message, Sampling

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

logger = logging.getLogger(__name__)

NAME = "perception_encoder"
"""The plug-in's name for `--model` of lmms-eval."""
MAX_TOKENS = 256
"""Default maximum number of tokens of an answer."""


class _Answers:
    """The plug-in without lmms-eval's base class, which is added below."""

    is_simple = False
    """Requests hold messages with all media, not a text beside a list."""

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        tiles: int | None = None,
        frames: int = FRAMES,
        max_batch_size: int | None = None,
    ) -> None:
        """`pretrained`, `device`, `tiles`: see `load_language_model`. `frames`: maximum number of frames of a video."""
        super().__init__()
        self.generator = load_language_model(ModelSpec(pretrained, device), tiles)
        if note := demo_note(self.generator.name):
            logger.warning(note)
        self.batch_size, self.frames = int(batch_size), frames

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the answers to requests of lmms-eval, in order; requests with the same sampling are batched."""
        answers = [""] * len(requests)
        groups: dict[Sampling, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[sampling_of(request.args[2])].append(number)
        for sampling, numbers in groups.items():
            for start in range(0, len(numbers), self.batch_size):
                chunk = numbers[start : start + self.batch_size]
                conversations = []
                for number in chunk:
                    _, to_messages, _, row, task, split = requests[number].args
                    messages = to_messages(self.task_dict[task][split][row])  # type: ignore[attr-defined]
                    conversations.append(read_messages(messages, self.generator, self.frames))
                for number, reply in zip(chunk, self.generator.generate(conversations, sampling), strict=True):
                    context, _, settings, *_ = requests[number].args
                    answers[number] = reply.text
                    self.cache_hook.add_partial("generate_until", (context, settings), reply.text)  # type: ignore[attr-defined]
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise ConfigError("tasks by log-likelihood are unsupported; choose one that generates answers")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise ConfigError("tasks of several rounds are unsupported; choose one with one question per sample")


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
    """Return the sampling of a task's `generation_kwargs`: greedy unless it samples at a temperature."""
    until = settings.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample", True) else 0.0
    top_p = settings.get("top_p")
    return Sampling(
        max_tokens=int(settings.get("max_new_tokens") or MAX_TOKENS),
        temperature=temperature,
        top_p=1.0 if top_p is None or not temperature else float(top_p),
        stop=tuple(stop for stop in stops if stop),
    )


def read_messages(messages: Sequence[Mapping[str, Any]], assistant: Assistant, frames: int = FRAMES) -> list[Message]:
    """Return lmms-eval's messages with their media opened; ConfigError for sound, InputError for bad files."""
    read = []
    for message in messages:
        parts: list[ContentPart] = []
        for content in message["content"]:
            kind, source = content["type"], content.get("url")
            if kind == "text":
                parts.append(content["text"])
            elif kind not in ("image", "video"):
                raise ConfigError(f"a sample contains {kind}; only texts, images and videos are supported")
            elif isinstance(source, Image.Image):
                parts.append(source.convert("RGB"))
            else:
                times = {"start": content.get("start_time"), "end": content.get("end_time")}
                parts += assistant.open(str(source), frames=frames, **times)
        read.append(Message(message["role"], tuple(parts)))
    return read


def manifest() -> ModelManifest:
    """Return the plug-in's name and class for registration by lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, chat_class_path=f"{__name__}.PerceptionEncoderModel")


def __getattr__(name: str) -> Callable[..., Any]:
    """Create the class when lmms-eval looks it up."""
    if name != "PerceptionEncoderModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lmms_eval.api.model import lmms

    return type("PerceptionEncoderModel", (_Answers, lmms), {"__module__": __name__})
