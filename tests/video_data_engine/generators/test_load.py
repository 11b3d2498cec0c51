"""Models by their names, of every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError, UnknownModelError
from perception_encoder.inference.conversation.identity import describe_generator
from perception_encoder.language_alignment.language_model import LanguageModel
from perception_encoder.language_alignment.text.text_model import TextModel
from perception_encoder.preprocess.conversation import Sampling, ask
from perception_encoder.video_data_engine.generators import transformers_model
from perception_encoder.video_data_engine.generators.load import (
    check_generator_name,
    is_endpoint,
    load_engine_model,
)
from tests.language_models import tiny_decoder, write_tiny_decoder
from tests.video_data_engine.models import ECHO, Echo


def test_endpoints_have_an_address_and_a_model() -> None:
    pytest.importorskip("openai", reason="openai is not installed; install the extra engine")
    model = load_engine_model("https://example.org/v1#Qwen/Qwen3-VL", True, 7.0)
    assert describe_generator(model) == {"name": "Qwen/Qwen3-VL", "address": "https://example.org/v1"}
    assert model.timeout == 7 and is_endpoint("http://x/v1#m") and not is_endpoint("smollm2")


@pytest.mark.parametrize("name", ["https://example.org/v1", "https://example.org/v1#", "python:module", "python::f"])
def test_incomplete_names_are_refused(name: str) -> None:
    for check in (check_generator_name, lambda name: load_engine_model(name, True)):
        with pytest.raises(ConfigError, match=r"names no model|is not of the form"):
            check(name)


def test_a_function_of_ones_own() -> None:
    model = load_engine_model(ECHO, False)
    assert isinstance(model, Echo) and describe_generator(model) == {"name": "echo"}


def test_a_model_sees_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    sees = Echo()
    monkeypatch.setattr(transformers_model, "load_transformers_model", lambda name: sees if name == "any" else None)
    assert load_engine_model("hf:any") is sees


def test_a_language_model_of_transformers(tmp_path: Path) -> None:
    model = load_engine_model(f"hf:{write_tiny_decoder(tmp_path)}", False)
    same = TextModel("tiny", tiny_decoder())
    conversation, sampling = [ask("what is red?")], Sampling(max_tokens=6)
    assert isinstance(model, TextModel)
    if model.decoder.model.dtype == same.decoder.model.dtype:  # CPUs with AMX compute in bfloat16
        assert model.generate(conversation, sampling) == same.generate(conversation, sampling)
        assert describe_generator(model)["weights"] == describe_generator(same)["weights"]


def test_the_built_in_model_may_write_summaries_too() -> None:
    assert isinstance(load_engine_model("builtin-lang", False), LanguageModel)
    with pytest.raises(UnknownModelError, match="no language model is called 'gpt'"):
        load_engine_model("gpt", True)
