"""A language model without eyes: answers whole and streamed, alone and in batches."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.language_alignment.text.text_model import TextModel
from perception_encoder.preprocess.conversation import Sampling, ask
from tests.language_models import tiny_decoder

SAMPLING = Sampling(max_tokens=12)


def test_answers_are_those_of_transformers() -> None:
    model = TextModel("tiny", tiny_decoder())
    conversation = ask("what is red?")
    (reply,) = model.generate([conversation], SAMPLING)
    ids = torch.tensor([model.decoder.prompts.generation_prompt(conversation, [], 12).ids])
    theirs = model.decoder.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=257
    )
    assert reply.text == model.decoder.tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True)
    assert (reply.prompt_tokens, reply.tokens <= 12) == (ids.shape[1], True)


def test_streams_and_batches_give_the_same() -> None:
    model = TextModel("tiny", tiny_decoder())
    conversations = [ask("what is red?"), ask("and a much longer question?"), ask("x")]
    together = [reply.text for reply in model.generate(conversations, SAMPLING)]
    assert together == [model.generate([each], SAMPLING)[0].text for each in conversations]
    assert together == ["".join(model.generate_stream(each, SAMPLING)) for each in conversations]
    assert len(set(together)) == 3


def test_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="tiny reads texts alone"):
        TextModel("tiny", tiny_decoder()).generate([ask("what?", [Image.new("RGB", (8, 8))])])
