"""Ask any transformers model that takes images and text: SmolVLM, Qwen-VL, LLaVA, InternVL and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from perception_encoder.errors import ConfigError, needs_extra, one_line
from perception_encoder.inference.conversation.assistant import Assistant
from perception_encoder.language_alignment.text.decoder import load_pretrained
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.preprocess.conversation import Message, Reply, Sampling


class TransformersModel(Assistant):
    """A transformers model with its processor; videos are shown as consecutive frames."""

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        self.name, self.model, self.processor = name, model.eval(), processor

    def generate(self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None) -> list[Reply]:
        """Return an answer to each conversation, greedily by default; ConfigError if the processor rejects one.

        `Sampling.stop` cuts a finished answer; `Sampling.cut` is ignored: the model's own limit applies.
        """
        return [self._answer(conversation, sampling or Sampling()) for conversation in conversations]

    @torch.inference_mode()
    def _answer(self, conversation: Sequence[Message], sampling: Sampling) -> Reply:
        images, messages = [], []
        for message in conversation:
            parts: list[dict[str, str]] = []
            for part in message.content:
                if isinstance(part, str):
                    parts.append({"type": "text", "text": part})
                    continue
                frames = [part] if isinstance(part, Image.Image) else part.images
                images += frames
                parts += [{"type": "image"}] * len(frames)
            messages.append({"role": message.role, "content": parts})
        try:
            text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            inputs = self.processor(text=[text], images=images or None, return_tensors="pt")
        except Exception as error:  # a template or a processor raises what it likes
            raise ConfigError(f"the processor of {self.name} rejects this conversation: {one_line(error)}") from None
        inputs = inputs.to(self.model.device, self.model.dtype)
        length = inputs["input_ids"].shape[1]
        sample = sampling.temperature > 0
        options = {"temperature": float(sampling.temperature), "top_p": sampling.top_p} if sample else {}
        with drawn_from(torch.Generator().manual_seed(sampling.seed)):
            output = self.model.generate(**inputs, max_new_tokens=sampling.max_tokens, do_sample=sample, **options)
        tokens = output[0, length:]
        answer = self.processor.decode(tokens, skip_special_tokens=True)
        cuts = [at for stop in sampling.stop if (at := answer.find(stop)) >= 0]
        finished = bool(cuts) or len(tokens) < sampling.max_tokens
        return Reply(answer[: min(cuts)] if cuts else answer, length, len(tokens), finished)


def load_transformers_model(name: str | Path) -> TransformersModel:
    """Load a model by directory or hub name; WeightsUnavailableError, MissingExtraError without transformers."""
    with needs_extra("engine", "transformers"):
        from transformers import AutoModelForImageTextToText, AutoProcessor
    device = choose_device(None)
    model, processor = load_pretrained(name, AutoModelForImageTextToText, AutoProcessor, fast_dtype(device))
    return TransformersModel(Path(name).name, model.to(device), processor)
