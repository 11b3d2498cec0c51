"""Prompts: image tokens, labels on answers, and what happens when the context is full."""

from __future__ import annotations

import dataclasses
import logging

import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, ContextLengthError
from perception_encoder.language_models.prompt import IGNORED, PLACEHOLDER, PromptFormat
from perception_encoder.preprocess.conversation import Message, ask
from tests.tiny_language_models import TEMPLATE, byte_tokenizer

IMAGE = Image.new("RGB", (8, 8))
FORMAT = PromptFormat(byte_tokenizer(), TEMPLATE, 400)


def text_of(ids: list[int]) -> str:
    return FORMAT.tokenizer.decode(ids)


def test_an_image_becomes_its_tokens_where_it_stands() -> None:
    messages = [Message("user", ("before ", IMAGE, " after", IMAGE))]
    prompt = FORMAT.generation_prompt(messages, [3, 2], room=10)
    runs = "".join("I" if image else "t" for image in prompt.is_image)
    assert runs.strip("t").replace("t", "") == "IIIII"
    text = [i for i, image in zip(prompt.ids, prompt.is_image, strict=True) if not image]
    assert text_of(text) == "<|start|>user\nbefore  after<|end|>\n<|start|>assistant\n"
    first = prompt.is_image.index(True)
    assert text_of(prompt.ids[:first]) == "<|start|>user\nbefore "
    assert text_of(prompt.ids[first + 3 : first + 9]) == " after"
    assert prompt.is_image[first + 9 : first + 11] == [True, True]


def test_labels_cover_the_answers_and_their_end_alone() -> None:
    messages = [
        *ask("how many?", [IMAGE]),
        Message("assistant", ("two",)),
        Message("user", ("sure?",)),
        Message("assistant", ("yes",)),
    ]
    prompt = FORMAT.training_prompt(messages, [4])
    labelled = [label for label in prompt.labels if label != IGNORED]
    assert text_of(labelled) == "two<|end|>yes<|end|>"
    assert all(i == label for i, label in zip(prompt.ids, prompt.labels, strict=True) if label != IGNORED)


def test_a_placeholder_in_a_text_is_not_an_image() -> None:
    prompt = FORMAT.generation_prompt(ask(f"what is {PLACEHOLDER}?"), [], room=1)
    assert not any(prompt.is_image)


@pytest.mark.parametrize("counts", [[], [1, 1]])
def test_a_wrong_number_of_images_is_an_error(counts: list[int]) -> None:
    with pytest.raises(ConfigError, match=f"1 placeholders for {len(counts)} images"):
        FORMAT.generation_prompt(ask("what?", [IMAGE]), counts, room=1)


def test_a_conversation_without_an_answer_is_an_error_in_training() -> None:
    with pytest.raises(ConfigError, match="has no answer"):
        FORMAT.training_prompt(ask("what?"), [])


def test_a_long_training_text_is_cut_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    short = dataclasses.replace(FORMAT, context=60)
    messages = [*ask("what?", [IMAGE]), Message("assistant", ("a long answer " * 20,))]
    whole = FORMAT.training_prompt(messages, [4])
    with caplog.at_level(logging.WARNING):
        prompt = short.training_prompt(messages, [4])
    assert (prompt.ids, prompt.labels) == (whole.ids[:60], whole.labels[:60])
    assert prompt.cut == len(whole.ids) - 60
    assert "was cut to 60" in caplog.text


def test_images_are_never_cut_in_training() -> None:
    short = dataclasses.replace(FORMAT, context=60)
    late = [Message("user", ("words " * 8, IMAGE)), Message("assistant", ("a",))]
    with pytest.raises(ConfigError, match="in a context of 60"):
        short.training_prompt(late, [30])


def test_the_longest_text_loses_its_middle_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    messages = [Message("user", (IMAGE, "begin " + "x" * 600 + " end?"))]
    with caplog.at_level(logging.WARNING):
        prompt = FORMAT.generation_prompt(messages, [50], room=20)
    assert len(prompt.ids) <= 380
    assert len(prompt.ids) > 360, "no more than needed is cut"
    assert sum(prompt.is_image) == 50
    text = text_of([i for i, image in zip(prompt.ids, prompt.is_image, strict=True) if not image])
    assert text.startswith("<|start|>user\nbegin xxx") and " … " in text
    assert text.endswith(" end?<|end|>\n<|start|>assistant\n")
    assert prompt.cut > 0 and "its longest text lost" in caplog.text


def test_images_that_fill_the_context_are_an_error() -> None:
    with pytest.raises(ContextLengthError, match="do not fit the context of 400"):
        FORMAT.generation_prompt(ask("what?", [IMAGE]), [390], room=20)


def test_a_template_that_refuses_a_conversation_is_named() -> None:
    strict = dataclasses.replace(FORMAT, template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ConfigError, match="roles must alternate"):
        strict.generation_prompt(ask("what?"), [], room=1)


def test_a_template_that_rewrites_earlier_turns_is_an_error_in_training() -> None:
    template = TEMPLATE.replace("{{ m.content }}", "{{ m.content if loop.last else '-' }}")
    changing = dataclasses.replace(FORMAT, template=template)
    with pytest.raises(ConfigError, match="changes earlier turns"):
        changing.training_prompt([*ask("what?"), Message("assistant", ("it",))], [])


QUESTIONS = [("how many?", "two"), ("which colour?", "red"), ("where?", "left")]


def ask_about_image(question: str, system: str | None) -> list[Message]:
    return [*([Message("system", (system,))] if system else []), *ask(question, [IMAGE])]


def apart_messages(system: str | None = None) -> list[Message]:
    first = ask_about_image(QUESTIONS[0][0], system)
    turns = [Message("assistant", (QUESTIONS[0][1],))]
    for question, answer in QUESTIONS[1:]:
        turns += [Message("user", (question,)), Message("assistant", (answer,))]
    return [*first, *turns]


@pytest.mark.parametrize("system", [None, "be brief"])
def test_questions_apart_go_on_from_the_image_as_if_each_were_the_only_one(system: str | None) -> None:
    prompt = FORMAT.independent_questions(apart_messages(system), [3])
    assert prompt.parts is not None and sum(prompt.is_image) == 3 and prompt.cut == 0
    for number, (question, answer) in enumerate(QUESTIONS, 1):
        seen = [at for at, part in enumerate(prompt.parts) if part in (0, number)]
        alone = FORMAT.training_prompt([*ask_about_image(question, system), Message("assistant", (answer,))], [3])
        assert [prompt.ids[at] for at in seen] == alone.ids
        assert [prompt.labels[at] for at in seen] == alone.labels
        assert [prompt.is_image[at] for at in seen] == alone.is_image


def test_questions_apart_that_do_not_fit_are_left_out() -> None:
    whole = FORMAT.independent_questions(apart_messages(), [3])
    short = dataclasses.replace(FORMAT, context=len(whole.ids) - 1).independent_questions(apart_messages(), [3])
    assert short.parts is not None and max(short.parts) == 2
    assert short.cut == len(whole.ids) - len(short.ids)


def test_questions_are_set_apart_only_if_the_images_come_first() -> None:
    later = [*apart_messages()[:2], Message("user", (IMAGE, "and this?")), Message("assistant", ("no",))]
    with pytest.raises(ConfigError, match="all images are in the first"):
        FORMAT.independent_questions(later, [3, 3])
    between = [Message("user", ("this", IMAGE, "is what?")), *apart_messages()[1:]]
    with pytest.raises(ConfigError, match="before the first text"):
        FORMAT.independent_questions(between, [3])
