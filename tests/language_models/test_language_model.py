"""Answers about images and videos."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from PIL import Image

from perception_encoder.errors import ContextLengthError, ModelError
from perception_encoder.language_models.language_model import LanguageModel
from perception_encoder.preprocess.conversation import Message, Reply, Sampling, ask
from perception_encoder.preprocess.frames import VideoFrames
from tests.tiny_language_models import tiny_language_model

NOISE = Image.effect_noise((64, 64), 90).convert("RGB")
WIDE = Image.effect_noise((128, 32), 90).convert("RGB")
SAMPLING = Sampling(max_tokens=12)


def streamed(model: LanguageModel, conversation: list[Message], sampling: Sampling) -> tuple[list[str], Reply]:
    """The pieces of a streamed answer, and what the stream returns."""
    stream, pieces = model.generate_stream(conversation, sampling), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_the_streamed_answer_is_the_generated_one() -> None:
    model = tiny_language_model()
    for conversation in (ask("what?", [NOISE]), ask("hello")):
        pieces, reply = streamed(model, conversation, SAMPLING)
        assert reply == model.generate([conversation], SAMPLING)[0]
        assert "".join(pieces) == reply.text and all(pieces)
        assert (reply.tokens, reply.finished) == (12, False)


def test_an_image_alone_is_tiled_and_several_are_not() -> None:
    model = tiny_language_model()
    assert model.media_tokens(NOISE).shape == (5 * 4, 32)  # a thumbnail and 2 x 2 tiles
    assert model.media_tokens(NOISE, alone=False).shape == (4, 32)
    assert tiny_language_model(tiles=0).media_tokens(NOISE).shape == (4, 32)
    both = model.generate([ask("which?", [NOISE, WIDE])], SAMPLING)[0]
    alone = model.generate([ask("which?", [NOISE])], SAMPLING)[0]
    assert both.prompt_tokens - alone.prompt_tokens == 2 * 4 - 5 * 4


def test_an_image_is_encoded_once_in_a_conversation() -> None:
    model = tiny_language_model()
    first = ask("what?", [NOISE])
    model.generate([first], SAMPLING)
    encoded = model.encoded
    model.generate([[*first, Message("assistant", ("noise",)), Message("user", ("sure?",))]], SAMPLING)
    assert encoded == model.encoded == 5
    model.generate([ask("what?", [NOISE.copy()])], SAMPLING)
    assert model.encoded == 10


def test_an_image_is_not_held_after_its_conversation() -> None:
    model = tiny_language_model()
    image = NOISE.copy()
    model.generate([ask("what?", [image])], SAMPLING)
    alive = weakref.ref(image)
    del image
    gc.collect()
    assert alive() is None
    model.generate([ask("what?", [WIDE.resize((64, 64))])], SAMPLING)  # it may have the same id
    assert model.encoded == 10


def test_a_conversation_is_refused_instead_of_cut() -> None:
    model, long = tiny_language_model(context=100), ask("x" * 100)
    assert model.generate([long], SAMPLING)[0].cut > 0
    refusing = Sampling(max_tokens=12, cut=False)
    with pytest.raises(ContextLengthError, match="in the context of 100"):
        next(model.generate_stream(long, refusing))
    assert model.generate([ask("hello")], refusing)[0].cut == 0


def test_an_answer_is_clipped_to_what_fits() -> None:
    """Before: `max_tokens` that did not fit beside the prompt refused the conversation."""
    model = tiny_language_model(context=100)
    asked = Sampling(max_tokens=10_000, cut=False)
    (whole,) = model.generate([ask("hello")], asked)
    assert streamed(model, ask("hello"), asked)[1] == whole
    assert whole.prompt_tokens + whole.tokens <= 100
    assert whole.finished or whole.prompt_tokens + whole.tokens == 100


def test_frames_of_a_video_follow_one_another() -> None:
    model = tiny_language_model()
    video = VideoFrames([NOISE, WIDE, NOISE], [0.0, 1.0, 2.0], 3.0, 3, complete=True)
    tokens = model.media_tokens(video)
    assert tokens.shape == (3 * 4, 32)
    torch.testing.assert_close(tokens[4:8], model.media_tokens(WIDE, alone=False))
    torch.testing.assert_close(tokens[:4], tokens[8:])


@pytest.mark.parametrize("length", [1, 3])
def test_a_stop_ends_the_answer_and_is_not_part_of_it(length: int) -> None:
    model = tiny_language_model()
    asked = [ask(f"what is {letter}?", [WIDE]) for letter in "abcdefgh"]  # what is answered depends on rounding
    conversation, whole, stop = next(
        (conversation, whole, part)
        for conversation in asked
        for whole in [model.generate([conversation], SAMPLING)[0].text]
        for part in (whole[at : at + length] for at in range(4, len(whole) - length))
        if "\ufffd" not in part  # which may be a part of a character so far
    )
    sampling = Sampling(max_tokens=12, stop=(stop,))
    answer = model.generate([conversation], sampling)[0]
    assert answer.text == whole[: whole.index(stop)] and answer.finished
    pieces, reply = streamed(model, conversation, sampling)
    assert "".join(pieces) == answer.text and reply.finished


def test_the_probability_of_yes_is_that_of_the_next_token() -> None:
    model = tiny_language_model()
    conversations = [ask("Is it red?", [NOISE]), ask("Is it red?", [WIDE]), ask("Is it red?")]
    shares = model.yes_probabilities(conversations)
    assert shares.shape == (3,) and len(set(shares)) == 3 and (shares > 0).all() and (shares < 1).all()
    for conversation, share in zip(conversations, shares, strict=True):
        with torch.inference_mode():
            embeddings, _ = model._prompt(conversation, Sampling(max_tokens=1))
            logits = model.model.decoder(inputs_embeds=embeddings[None]).logits[0, -1].softmax(-1)
        ids = [model.decoder.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "yYnN"]
        yes, no = logits[ids[:2]].sum(), logits[ids[2:]].sum()  # the tiny model's tokens are bytes
        assert share == pytest.approx(float(yes / (yes + no)), abs=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_give_no_probability(bad: float) -> None:
    model = tiny_language_model()
    model.model.decoder.lm_head.weight.data[ord("!"), 3] = bad  # type: ignore[union-attr,index]
    with pytest.raises(ModelError, match="gives NaN or infinity in float32"):
        model.yes_probabilities([ask("Is it red?")])
