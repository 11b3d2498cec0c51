"""Convert a conversation to token ids: the chat template's text, with positions for image tokens.

The template is rendered with a placeholder for each image, the text between placeholders is tokenized, and each
placeholder becomes the tokens of its image. Only the assistant's answers have labels.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from perception_encoder.errors import ConfigError, ContextLengthError, one_line
from perception_encoder.preprocess.conversation import Message

logger = logging.getLogger(__name__)

PLACEHOLDER = "\ue200"
"""Placeholder for an image in a rendered template: a private-use character, removed from all texts."""
GAP = " … "
"""Replacement for the part removed from a text."""
IGNORED = -100
"""Label of a token that has no loss."""


@dataclass(frozen=True)
class Prompt:
    """A conversation as tokens."""

    ids: list[int]
    """Token ids; 0 for an image token."""
    labels: list[int]
    """Token ids in answers, else `IGNORED`."""
    is_image: list[bool]
    parts: list[int] | None = None
    """For independent questions: 0 for the tokens they all see, else the question's number, from 1."""
    cut: int = 0
    """Number of text tokens left out because the context was full."""


@dataclass(frozen=True)
class PromptFormat:
    """A tokenizer with a chat template and the maximum prompt length."""

    tokenizer: Any
    """A tokenizer of transformers."""
    template: str
    context: int
    """Maximum number of tokens of a prompt, including those of images."""

    def training_prompt(self, messages: Sequence[Message], image_tokens: Sequence[int]) -> Prompt:
        """Return a whole conversation with labels on the answers, truncated at the end to fit the context.

        `image_tokens`: tokens of each image or video of the messages. Raises ConfigError for a wrong number of them,
        a conversation without an answer, and images that leave no room for one.
        """
        text, answers = self._render(messages, False), []
        for number, message in enumerate(messages):
            if message.role == "assistant":
                before = self._render(messages[:number], True)
                after = self._render(messages[: number + 1], False).rstrip()  # its end-of-turn token included
                if not (after.startswith(before) and text.startswith(after)):
                    raise ConfigError("the chat template changes earlier turns, so answers cannot be located")
                answers.append((len(before), len(after)))
        if not answers:
            raise ConfigError("the conversation has no answer of the assistant to train on")
        prompt = self._tokenize(text, answers, image_tokens)
        excess = len(prompt.ids) - self.context
        if excess <= 0:
            return prompt
        end = self.context
        if any(prompt.is_image[end:]) or all(label == IGNORED for label in prompt.labels[:end]):
            count = sum(prompt.is_image)
            raise ConfigError(
                f"{count} image tokens leave no room for an answer in a context of {self.context}; raise `context`, or "
                "take fewer `tiles` or `frames`"
            )
        logger.warning("a conversation of %d tokens was cut to %d", len(prompt.ids), end)
        return Prompt(prompt.ids[:end], prompt.labels[:end], prompt.is_image[:end], cut=excess)

    def independent_questions(self, messages: Sequence[Message], image_tokens: Sequence[int]) -> Prompt:
        """Return a conversation in which every question sees the images but no earlier question or answer.

        The tokens up to the last image come once; every question continues them as if it were the only one. Questions
        at the end that do not fit the context are left out. Raises what `training_prompt` raises, and ConfigError if
        not all images are in the first question.
        """
        start = 1 if messages[0].role == "system" else 0
        first, rest = messages[start], messages[start + 2 :]
        if any(message.media for message in rest):
            raise ConfigError("questions can be independent only if all images are in the first one")
        prompt = self.training_prompt(messages[: start + 2], image_tokens)
        shared = max((at + 1 for at, image in enumerate(prompt.is_image) if image), default=0)
        ids, labels, parts = prompt.ids, prompt.labels, [0] * shared + [1] * (len(prompt.ids) - shared)
        images, cut = [part for part in first.content if not isinstance(part, str)], prompt.cut
        for number in range(0, len(rest), 2):
            question = Message("user", (*images, *rest[number].content))
            further = self.training_prompt([*messages[:start], question, rest[number + 1]], image_tokens)
            if further.ids[:shared] != prompt.ids[:shared] or further.is_image[:shared] != prompt.is_image[:shared]:
                raise ConfigError("questions can be independent only if all images come before the first text")
            added = len(further.ids) - shared
            if len(ids) + added > self.context:
                cut += added
                continue
            ids, labels = ids + further.ids[shared:], labels + further.labels[shared:]
            parts += [2 + number // 2] * added
        return Prompt(ids, labels, prompt.is_image[:shared] + [False] * (len(ids) - shared), parts, cut)

    def generation_prompt(
        self, messages: Sequence[Message], image_tokens: Sequence[int], room: int, cut_text: bool = True
    ) -> Prompt:
        """Return the conversation up to the next answer.

        If the context is full, the middle of the longest text is cut, with a logged warning; images are never cut.
        Raises ContextLengthError if the images leave no room; ConfigError for a wrong number of `image_tokens`.

        `room`: tokens to leave for the answer. Without `cut_text`, nothing is cut, and room for one token is enough.
        """
        prompt = self._tokenize(self._render(messages, True), [], image_tokens)
        length = len(prompt.ids)
        if not cut_text:
            if length < self.context:
                return prompt
            raise ContextLengthError(
                f"the conversation's {length} tokens leave no room for an answer in the context of {self.context}; "
                "send less"
            )
        while (excess := len(prompt.ids) + room - self.context) > 0:
            shorter = self._without_middle(messages, excess)
            if shorter is None:
                raise ContextLengthError(
                    f"{sum(prompt.is_image)} image tokens and {room} for the answer do not fit the context of "
                    f"{self.context}; give fewer images, frames or tiles, or a shorter answer"
                )
            messages = shorter
            prompt = self._tokenize(self._render(messages, True), [], image_tokens)
        if cut := length - len(prompt.ids):
            logger.warning("the prompt had %d tokens; its longest text lost %d to fit the context", length, cut)
        return replace(prompt, cut=cut)

    def _render(self, messages: Sequence[Message], answer_next: bool) -> str:
        texts = [
            "".join(part.replace(PLACEHOLDER, "") if isinstance(part, str) else PLACEHOLDER for part in message.content)
            for message in messages
        ]
        rows = [{"role": message.role, "content": text} for message, text in zip(messages, texts, strict=True)]
        try:
            return self.tokenizer.apply_chat_template(
                rows, chat_template=self.template, tokenize=False, add_generation_prompt=answer_next
            )
        except Exception as error:  # templates raise anything, for example about the order of roles
            raise ConfigError(f"the chat template rejects this conversation: {one_line(error)}") from None

    def _tokenize(self, text: str, answers: list[tuple[int, int]], image_tokens: Sequence[int]) -> Prompt:
        """Tokenize a rendered text, split where answers, given by their start and end, and images begin and end."""
        images = [at for at, letter in enumerate(text) if letter == PLACEHOLDER]
        if len(images) != len(image_tokens):
            raise ConfigError(f"the prompt has {len(images)} placeholders for {len(image_tokens)} images and videos")
        counts = dict(zip(images, image_tokens, strict=True))
        edges = {0, len(text), *itertools.chain(*answers)}
        edges |= {edge for at in images for edge in (at, at + 1)}
        ids: list[int] = []
        labels: list[int] = []
        is_image: list[bool] = []
        for start, end in itertools.pairwise(sorted(edges)):
            if start in counts:
                piece, labelled = [0] * counts[start], False
            else:
                piece = self.tokenizer(text[start:end], add_special_tokens=False)["input_ids"]
                labelled = any(first <= start < last for first, last in answers)
            ids += piece
            labels += piece if labelled else [IGNORED] * len(piece)
            is_image += [start in counts] * len(piece)
        return Prompt(ids, labels, is_image)

    def _without_middle(self, messages: Sequence[Message], excess: int) -> list[Message] | None:
        """Return the messages with `excess` tokens cut from the middle of the longest text; None if it is too short."""
        text, row, column = "", 0, 0
        for at, message in enumerate(messages):
            for place, part in enumerate(message.content):
                if isinstance(part, str) and len(part) >= len(text):
                    text, row, column = part, at, place
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        left = len(ids) - excess - len(self.tokenizer(GAP, add_special_tokens=False)["input_ids"])
        if left < 2:
            return None
        head, tail = ids[: left - left // 2], ids[len(ids) - left // 2 :]
        shorter = self.tokenizer.decode(head) + GAP + self.tokenizer.decode(tail)
        if len(shorter) >= len(text):
            return None
        content = list(messages[row].content)
        content[column] = shorter
        return [*messages[:row], Message(messages[row].role, tuple(content)), *messages[row + 1 :]]
