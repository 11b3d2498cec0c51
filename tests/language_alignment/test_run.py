"""Whole runs of language alignment on a few images, with a tiny language model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.data.conversations import open_conversations
from perception_encoder.errors import ConfigError, DataError, OutputError, WeightsUnavailableError
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.run import ConversationBatches, LanguageTrainee, align_language
from perception_encoder.language_models.decoder import DecoderLoRA
from perception_encoder.language_models.load import load_language_model
from perception_encoder.language_models.weights import WEIGHTS, load_vision, read_tower, read_trained
from perception_encoder.preprocess.conversation import Sampling, ask
from perception_encoder.store import Store
from perception_encoder.training.checkpoint import BEST
from perception_encoder.training.config import ValidationConfig
from perception_encoder.training.optimizer import OptimizerConfig
from tests.tiny_language_models import TEMPLATE, write_tiny_decoder
from tests.training.toys import Interrupted, interrupt_at, losses, rows, train_by_ranks

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "white": (240, 240, 240)}


def record(identity: object, image: str, *texts: str) -> str:
    turns = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]
    return json.dumps({"id": str(identity), "image": image, "conversations": turns}) + "\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain images, each with a question about its colour."""
    path, lines = tmp_path_factory.mktemp("data") / "train.jsonl", []
    for number in range(40):
        name = list(COLOURS)[number % 4]
        shade = tuple(max(0, value - number // 4) for value in COLOURS[name])
        Image.new("RGB", (40, 40), shade).save(path.with_name(f"{number}.png"))
        lines.append(record(number, f"{number}.png", "<image>\nWhat colour?", name))
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_decoder(tmp_path_factory.mktemp("decoder")))


def config(decoder: str, **settings: object) -> LanguageConfig:
    values = {
        "decoder": decoder,
        "context": 300,
        "image_size": 32,
        "steps": 4,
        "batch_size": 4,
        "warmup": 1,
        "pool": 1,
        "log_every": 1,
        "checkpoint_every": 2,
        "validation": None,
        "optimizer": OptimizerConfig(name="adamw", lr=1e-3),
    }
    return LanguageConfig(**{**values, **settings})


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return read_trained(path)[1]


def test_the_projector_alone_learns_and_its_features_are_cached(tmp_path: Path, data: Path, decoder: str) -> None:
    run_config = config(
        decoder, steps=30, batch_size=8, optimizer=OptimizerConfig(name="adamw", lr=1e-2), checkpoint_every=30
    )
    path = align_language(run_config, [data], tmp_path / "run")
    ((first,), *_, (last,)) = losses(tmp_path / "run", "next_token")
    assert last < 0.8 * first
    assert {name.split(".")[0] for name in weights_of(path)} == {"projector"}
    (index,) = (tmp_path / "run" / "features").glob("*/features.jsonl")
    assert len(index.read_text().splitlines()) == 40, "each image is encoded once"


def test_cached_features_train_as_pixels_do(tmp_path: Path, data: Path, decoder: str) -> None:
    for cached in (True, False):
        align_language(config(decoder, cached=cached), [data], tmp_path / str(cached))
    of_features, of_pixels = (np.array(losses(tmp_path / name, "next_token")) for name in ("True", "False"))
    assert of_features == pytest.approx(of_pixels, rel=1e-2)


@pytest.mark.usefixtures("float32")
def test_sources_with_equal_ids_and_file_names_keep_their_own_features(tmp_path: Path, decoder: str) -> None:
    run_config = config(decoder)
    trainee = LanguageTrainee.of(run_config)
    sources = []
    for colour in ("red", "green"):
        (tmp_path / colour).mkdir()
        Image.new("RGB", (40, 40), COLOURS[colour]).save(tmp_path / colour / "0.png")
        (tmp_path / colour / "train.jsonl").write_text(record(0, "0.png", "<image>\nWhat colour?", "it"))
        sources.append(open_conversations(tmp_path / colour / "train.jsonl"))
    assert sources[0][0].key == sources[1][0].key
    cached = ConversationBatches(run_config, trainee, sources, Store(tmp_path / "features", {}).arrays())
    plain = ConversationBatches(run_config, trainee, sources)
    for (sample,) in (*sources, *sources):
        expected = trainee.model.image_features(plain.example(sample)[1])
        assert torch.allclose(cached.example(sample)[1], expected, atol=2**-10, rtol=2**-10)  # cached in float16


@pytest.mark.parametrize("lora", [None, DecoderLoRA(rank=2)])
def test_everything_trains_and_the_model_answers(
    tmp_path: Path, data: Path, decoder: str, lora: DecoderLoRA | None
) -> None:
    run_config = config(decoder, train_vision=True, train_decoder=True, lora=lora, layer_scale=0.1, drop_path=0.2)
    path = align_language(run_config, [data], tmp_path)
    state = weights_of(path)
    assert {name.split(".")[0] for name in state} == {"projector", "vision", "decoder"}
    assert all("lora_" in name for name in state if name.startswith("decoder.")) == (lora is not None)
    model = load_language_model(ModelSpec(tmp_path, "cpu", precision="float32"))
    assert model.generate([ask("What colour?", [Image.new("RGB", (40, 40), "red")])], Sampling(max_tokens=4))


@pytest.mark.usefixtures("float32")
def test_questions_apart_train_as_if_each_were_the_only_one(tmp_path: Path, data: Path, decoder: str) -> None:
    first, second = ("<image>\nWhat colour?", "green"), ("Is it red?", "no")
    found = {}
    for name, texts in {"both": first + second, "first": first, "second": second}.items():
        (data.parent / f"{name}.jsonl").write_text(record(1, "1.png", *texts))
        run_config = config(decoder, apart=True, steps=1, batch_size=1, cached=False)
        align_language(run_config, [data.parent / f"{name}.jsonl"], tmp_path / name)
        found[name] = rows(tmp_path / name)[0]["next_token"]
    tokens = {"first": len("green") + 1, "second": len("no") + 1}
    total = sum(found[name] * count for name, count in tokens.items())
    assert found["both"] == pytest.approx(total / sum(tokens.values()), rel=1e-4)


def test_training_rows_may_be_shorter_than_the_context_and_the_rate_ends_at_its_floor(
    tmp_path: Path, data: Path, decoder: str
) -> None:
    run_config = config(decoder, training_context=40, floor=0.5)
    trainee = LanguageTrainee.of(run_config)
    source = open_conversations(data)
    prompt, _ = ConversationBatches(run_config, trainee, [source]).example(source[0])
    assert len(prompt.ids) == 40 and trainee.decoder.prompts.context == 300
    assert read_trained(align_language(run_config, [data], tmp_path))[0].context == 300
    assert [row["lr"] for row in rows(tmp_path)] == [1e-3, 1e-3, 8.75e-4, 6.25e-4]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, data: Path, decoder: str) -> None:
    run_config = config(decoder, train_vision=True, train_decoder=True, lora=DecoderLoRA(rank=2), drop_path=0.3)
    whole = align_language(run_config, [data], tmp_path / "whole")
    with pytest.raises(Interrupted):
        align_language(run_config, [data], tmp_path / "cut", listener=interrupt_at(3))
    resumed = align_language(run_config, [data], tmp_path / "cut")
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(resumed)[name]), name


def test_cached_features_are_locked_until_the_run_ends_and_open_for_a_resume(
    tmp_path: Path, data: Path, decoder: str
) -> None:
    def look(row: dict[str, float]) -> None:
        (features,) = (tmp_path / "features").iterdir()
        with pytest.raises(OutputError, match="another process is writing"):
            Store(features, {})
        interrupt_at(3)(row)

    with pytest.raises(Interrupted) as stopped:
        align_language(config(decoder), [data], tmp_path, listener=look)
    align_language(config(decoder), [data], tmp_path)
    assert stopped.tb is not None, "it holds the frames of the run"


def test_a_later_stage_goes_on_from_an_earlier_one(tmp_path: Path, data: Path, decoder: str) -> None:
    first = align_language(config(decoder), [data], tmp_path / "first")
    run_config = config(
        decoder, initial=str(first), train_vision=True, train_decoder=True, lora=DecoderLoRA(rank=2), layer_scale=0.1
    )
    frozen = OptimizerConfig(name="adamw", lr=1e-300)
    second = align_language(config(decoder, initial=str(first), optimizer=frozen), [data], tmp_path / "same")
    for name, value in weights_of(first).items():
        assert torch.equal(value, weights_of(second)[name])
    third = align_language(run_config, [data], tmp_path / "third")
    fourth = align_language(config(decoder, initial=str(third), optimizer=frozen), [data], tmp_path / "fourth")
    assert weights_of(fourth).keys() == weights_of(third).keys()
    assert read_trained(fourth)[0].lora == DecoderLoRA(rank=2)
    assert LanguageTrainee.of(config(decoder, initial=str(third), context=90)).decoder.prompts.context == 90
    with pytest.raises(ConfigError, match="initial has adapters of"):
        other = config(decoder, initial=str(third), train_decoder=True, lora=DecoderLoRA(rank=3))
        align_language(other, [data], tmp_path / "other")


def test_settings_hold_after_initial_and_those_that_are_not_given_are_its_own(
    tmp_path: Path, data: Path, decoder: str
) -> None:
    template = TEMPLATE.replace("<|start|>", "<|start|> ")
    first = align_language(config(decoder, pool=1, chat_template=template, image_size=64), [data], tmp_path / "first")
    given = config(decoder, initial=str(first), pool=2, chat_template=TEMPLATE, image_size=96)
    trainee = LanguageTrainee.of(given)
    assert trainee.model.projector.pool == trainee.parts.pool == 2
    assert trainee.decoder.prompts.template == trainee.parts.chat_template == TEMPLATE
    assert trainee.model.vision.config.image_size == 96
    kept = LanguageTrainee.of(config(decoder, initial=str(first), pool=None, image_size=None))
    assert kept.model.projector.pool == kept.parts.pool == 1
    assert kept.decoder.prompts.template == template and kept.parts.media.image_size == 64
    again = LanguageTrainee.of(config(decoder, initial=str(align_language(given, [data], tmp_path / "second"))))
    assert again.model.projector.pool == 1, "pool=1 of `config`"
    for name, value in weights_of(first).items():
        if name.startswith("projector."):
            assert torch.equal(value, kept.model.state_dict()[name].half())
    with pytest.raises(ConfigError, match=r"the projector of .* has two layers"):
        LanguageTrainee.of(config(decoder, initial=str(first), linear=True))


def test_the_whole_language_model_trains_after_adapters(tmp_path: Path, data: Path, decoder: str) -> None:
    adapted = config(decoder, train_decoder=True, lora=DecoderLoRA(rank=2))
    first = align_language(adapted, [data], tmp_path / "first")
    whole = LanguageTrainee.of(config(decoder, initial=str(first), train_decoder=True))
    assert whole.parts.lora is None and all(parameter.requires_grad for parameter in whole.model.decoder.parameters())
    image = Image.new("RGB", (40, 40), "red")
    expected = load_language_model(ModelSpec(first, "cpu", precision="float32")).generate(
        [ask("What?", [image])], Sampling(max_tokens=8)
    )
    whole.write(tmp_path / "whole.safetensors")
    model = load_language_model(ModelSpec(tmp_path / "whole.safetensors", "cpu", precision="float32"))
    assert model.generate([ask("What?", [image])], Sampling(max_tokens=8)) == expected


def test_the_position_table_is_trained_at_the_images_size(tmp_path: Path, data: Path, decoder: str) -> None:
    run_config = config(decoder, image_size=64, train_vision=True)
    table = load_vision(run_config.parts).positional_embedding
    assert len(table) == 16 + 1  # 4 x 4 patches of 16 px, and the class token
    path = align_language(run_config, [data], tmp_path)
    assert weights_of(path)["vision.positional_embedding"].shape == table.shape
    assert read_tower(path).config.image_size == 64
    assert LanguageTrainee.of(config(decoder, initial=str(path), image_size=96)).model.vision.config.image_size == 96


def test_another_language_model_takes_the_encoder_alone(tmp_path: Path, data: Path, decoder: str) -> None:
    run_config = config(decoder, train_vision=True, train_decoder=True, layer_scale=0.1)
    first = align_language(run_config, [data], tmp_path / "first")
    other = str(write_tiny_decoder(tmp_path / "other"))
    second = align_language(config(other, initial=str(first), layer=3), [data], tmp_path / "second")
    parts, weights = read_trained(second)
    assert (parts.decoder, parts.layer, parts.layer_scale) == (other, -1, 0.1)
    assert {name.split(".")[0] for name in weights} == {"projector", "vision"}
    for name, value in weights_of(first).items():
        assert name.split(".")[0] != "vision" or torch.equal(value, weights[name])
    name = "projector.projector.0.weight"
    assert not torch.equal(weights[name], weights_of(first)[name])


def test_a_later_stage_continues_the_fresh_language_model_of_an_earlier_one(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a rate of almost 0, all weights stay: of the projector, the language model and the tower."""
    whole = {"context": 200, "train_decoder": True, "train_vision": True}
    first = align_language(config("fresh", **whole), [data], tmp_path / "first")
    assert align_language(config("fresh", **whole), [data], tmp_path / "first") == first, "a finished run begins again"
    expected = weights_of(first)
    assert "decoder.model.embed_tokens.weight" in expected
    model = load_language_model(ModelSpec(tmp_path / "first"))
    assert model.generate([ask("What colour?", [Image.new("RGB", (9, 9))])], Sampling(max_tokens=3))
    still = {**whole, "optimizer": OptimizerConfig(name="adamw", lr=1e-12, weight_decay=0.0)}
    for number, initial in enumerate((first, first.parent)):
        out = tmp_path / str(number)
        caplog.clear()
        with caplog.at_level("INFO", "perception_encoder.training.run"):
            path = align_language(config("fresh", initial=str(initial), **still), [data], out)
        assert read_trained(path)[0].decoder == str(tmp_path / "first" / "decoder") and not (out / "decoder").exists()
        for name, value in expected.items():
            assert torch.equal(value, weights_of(path)[name]), name
        assert f"loaded: encoder: {first}; projector: {first}; language model: {first}" in caplog.text


def test_every_start_says_what_was_loaded_from_where(
    tmp_path: Path, data: Path, decoder: str, caplog: pytest.LogCaptureFixture
) -> None:
    def lines(**settings: object) -> str:
        caplog.clear()
        with caplog.at_level("INFO", "perception_encoder.training.run"):
            align_language(config(**{"decoder": decoder, **settings}), [data], tmp_path / str(len(settings)))
        return caplog.text

    assert f"loaded: encoder: PE-Core-N16-128; projector: random weights; language model: {decoder}" in lines()
    first = str(tmp_path / "0" / "language.safetensors")
    assert f"encoder: PE-Core-N16-128; projector: {first}; language mod" in lines(initial=str(tmp_path / "0"))
    other = str(write_tiny_decoder(tmp_path / "other"))
    text = lines(initial=first, decoder=other)
    assert f"projector: random weights, as {first} has another language model, {decoder}; language mod" in text
    assert f"language model: {other}" in text


def test_an_unfinished_run_says_so_wherever_it_is_given(tmp_path: Path, data: Path, decoder: str) -> None:
    with pytest.raises(Interrupted):
        align_language(config(decoder), [data], tmp_path / "run", listener=interrupt_at(3))
    message = r"run is an unfinished run of `pe train`, without language\.safetensors; rerun its command to finish it"
    with pytest.raises(WeightsUnavailableError, match=message):
        load_language_model(ModelSpec(tmp_path / "run"))
    with pytest.raises(WeightsUnavailableError, match=message):
        align_language(config(decoder, initial=str(tmp_path / "run")), [data], tmp_path / "next")


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("share", [0.25, 1e-6])
def test_a_run_is_validated_if_any_source_has_held_out_samples(
    sources: int, share: float, tmp_path: Path, data: Path, decoder: str
) -> None:
    few = data.parent / "few.jsonl"  # of which none is held out
    few.write_text(data.read_text().partition("\n")[0] + "\n")
    validation = ValidationConfig(every=2, share=share, metric="loss")
    out = tmp_path / "run"
    align_language(config(decoder, validation=validation), [data, few][:sources], out)
    assert any("validation/loss" in row for row in rows(out)) == (out / "best.safetensors").exists() == (share > 0.1)


def test_bad_lines_are_named_or_left_out(tmp_path: Path, data: Path, decoder: str) -> None:
    bad = data.with_name("bad.jsonl")
    bad.write_text(data.read_text() + '{"image": "0.png", "conversations": []}\n')
    with pytest.raises(DataError, match=r"bad.jsonl:41"):
        align_language(config(decoder), [bad], tmp_path / "run")
    align_language(config(decoder, skip_bad=True), [bad], tmp_path / "run")


def test_a_validated_run_writes_its_best_weights(tmp_path: Path, data: Path, decoder: str) -> None:
    run_config = config(decoder, steps=6, validation=ValidationConfig(every=2, share=0.3, metric="loss"))
    align_language(run_config, [data], tmp_path)
    scores = {row["step"]: row["validation/loss"] for row in rows(tmp_path) if "validation/loss" in row}
    assert set(scores) == {2, 4, 6}
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["best"] == {"step": min(scores, key=scores.__getitem__), "loss": min(scores.values())}
    assert weights_of(tmp_path / BEST).keys() == weights_of(tmp_path / WEIGHTS).keys()


def train(data: Path, out: Path, decoder: Path, ranks: int, kind: str, trained: str) -> list[float]:
    """The losses of a run's steps."""
    told = [f"decoder={decoder}", "context=300", "batch_size=4", "cached=false", f"parallel.kind={kind}", trained]
    told += ["apart=true", "tiles=1", "pool=1", "parallel.checkpointing=false"]
    train_by_ranks(out, ranks, "language_custom", "--debug", "--data", data, settings=told)
    return [loss for (loss,) in losses(out, "next_token")]


@pytest.mark.parametrize("trained", ["lora=null", "lora.rank=2"], ids=["all weights", "adapters"])
def test_ranks_train_as_one(tmp_path: Path, trained: str) -> None:
    lines = []
    for number in range(24):
        Image.new("RGB", (40, 40), (9 * number, 120, 200)).save(tmp_path / f"{number}.png")
        lines.append(record(number, f"{number}.png", "<image>\nWhat?", "number " + "9" * (number % 5)))
    data, decoder = tmp_path / "data.jsonl", write_tiny_decoder(tmp_path / "decoder")
    data.write_text("".join(lines))
    one = train(data, tmp_path / "one", decoder, 1, "ddp", trained)
    assert len(one) == 4
    for kind in ("ddp", "fsdp"):
        assert train(data, tmp_path / kind, decoder, 2, kind, trained) == pytest.approx(one, rel=5e-5)
        first_tensors, other = (read_trained(tmp_path / run / "language.safetensors")[1] for run in ("one", kind))
        assert first_tensors.keys() == other.keys()
