"""Convert a conversation to token ids: the chat template's text, with positions for image tokens.

The template is rendered with a placeholder for each image, the text between placeholders is tokenized, and each
placeholder becomes the tokens of its image. Only the assistant's answers have labels.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
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
        if not any(message.role == "assistant" for message in messages):
            raise ConfigError("the conversation has no answer of the assistant to train on")
        text, spans = self._render_with_answers(messages)
        prompt = self._tokenize(text, spans, image_tokens)
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
        """Return the conversation up to the next answer, leaving `room` tokens for it.

        If the context is full, the middle of the longest text is cut, with a logged warning; images are never cut.
        Without `cut_text` nothing is cut, and room for one token is enough. Raises ContextLengthError if the images
        leave no room; ConfigError for a wrong number of `image_tokens`.
        """
        limit = self.context - room
        prompt = self._tokenize(self._render(messages, True), [], image_tokens)
        length, cut = len(prompt.ids), 0
        if not cut_text:
            if length >= self.context:
                raise ContextLengthError(
                    f"the conversation's {length} tokens leave no room for an answer in the context of {self.context}; "
                    "send less"
                )
            return prompt
        while len(prompt.ids) > limit:
            shorter = self._without_middle(messages, len(prompt.ids) - limit)
            if shorter is None:
                images = sum(prompt.is_image)
                raise ContextLengthError(
                    f"{images} image tokens and {room} for the answer do not fit the context of {self.context}; "
                    "give fewer images, frames or tiles, or a shorter answer"
                )
            messages = shorter
            prompt = self._tokenize(self._render(messages, True), [], image_tokens)
            cut = length - len(prompt.ids)
        if cut:
            logger.warning("the prompt had %d tokens; its longest text lost %d to fit the context", length, cut)
        return Prompt(prompt.ids, prompt.labels, prompt.is_image, cut=cut)

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

    def _render_with_answers(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """Return the whole text, and the start and end of each answer in it, including its end-of-turn token."""
        text = self._render(messages, False)
        spans = []
        for number, message in enumerate(messages):
            if message.role == "assistant":
                before = self._render(messages[:number], True)
                after = self._render(messages[: number + 1], False)
                if not (after.startswith(before) and text.startswith(after.rstrip())):
                    raise ConfigError("the chat template changes earlier turns, so answers cannot be located")
                spans.append((len(before), len(after.rstrip())))
        return text, spans

    def _tokenize(self, text: str, spans: list[tuple[int, int]], image_tokens: Sequence[int]) -> Prompt:
        """Tokenize a rendered text, split where answers and images begin and end."""
        images = [position for position, letter in enumerate(text) if letter == PLACEHOLDER]
        if len(images) != len(image_tokens):
            raise ConfigError(f"the prompt has {len(images)} placeholders for {len(image_tokens)} images and videos")
        cuts = {0, len(text), *(edge for span in spans for edge in span)}
        cuts |= {edge for position in images for edge in (position, position + 1)}
        counts = dict(zip(images, image_tokens, strict=True))
        starts, ends = {start for start, _ in spans}, {end for _, end in spans}
        ids: list[int] = []
        labels: list[int] = []
        is_image: list[bool] = []
        edges = sorted(cuts)
        answering = False
        for start, end in itertools.pairwise(edges):
            answering = (answering or start in starts) and start not in ends
            if start in counts:
                piece, labelled = [0] * counts[start], [IGNORED] * counts[start]
            else:
                piece = self.tokenizer(text[start:end], add_special_tokens=False)["input_ids"]
                labelled = piece if answering else [IGNORED] * len(piece)
            ids += piece
            labels += labelled
            is_image += [start in counts] * len(piece)
        return Prompt(ids, labels, is_image)

    def _without_middle(self, messages: Sequence[Message], excess: int) -> list[Message] | None:
        """Return the messages with `excess` tokens cut from the middle of the longest text; None if it is too short."""
        texts = [
            (len(part), row, column)
            for row, message in enumerate(messages)
            for column, part in enumerate(message.content)
            if isinstance(part, str)
        ]
        if not texts:
            return None
        _, row, column = max(texts)
        message = messages[row]
        text = str(message.content[column])
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        left = len(ids) - excess - len(self.tokenizer(GAP, add_special_tokens=False)["input_ids"])
        if left < 2:
            return None
        head, tail = ids[: left - left // 2], ids[len(ids) - left // 2 :]
        shorter = self.tokenizer.decode(head) + GAP + self.tokenizer.decode(tail)
        if len(shorter) >= len(text):
            return None
        content = (*message.content[:column], shorter, *message.content[column + 1 :])
        return [*messages[:row], Message(message.role, content), *messages[row + 1 :]]
