"""Loading is strict, by any name and in any layout: real weights or an error that says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
from torch import Tensor

import perception_encoder
from perception_encoder.errors import CheckpointError, WeightsUnavailableError
from perception_encoder.models.checkpoints.layouts import from_published
from perception_encoder.models.checkpoints.weights import (
    build,
    create_model,
    find_entry,
    from_state_dict,
    load_model,
    published_state_dict,
    recognise,
    weight_hash,
    write_checkpoint,
)
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import find_model
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.runtime import choice
from tests.golden_weights import golden_state
from tests.models.small import random_images

NANO, TOWER = "PE-Core-N16-128", "PE-Spatial-T16-512"


def weights_of(name: str) -> dict[str, Tensor]:
    shapes = published_state_dict(build(find_model(name)))
    return golden_state({n: tuple(tensor.shape) for n, tensor in shapes.items()})


@pytest.fixture(scope="module")
def nano() -> dict[str, Tensor]:
    return weights_of(NANO)


@pytest.fixture(scope="module")
def tower() -> dict[str, Tensor]:
    return weights_of(TOWER)


def assert_holds(model: torch.nn.Module, expected: dict[str, Tensor]) -> None:
    state = published_state_dict(model)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in expected.items())


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("layout", ["published", "open_clip"])
@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s}, lambda s: {"weights": prefixed(s, "module.")}])
def test_two_towers(nano: dict[str, Tensor], layout: str, wrap) -> None:
    given = from_published(nano, find_model(NANO).vision, layout)
    model = from_state_dict("builtin", wrap(given))
    assert isinstance(model, CLIP) and model.name == NANO
    assert_holds(model, nano)


@pytest.mark.parametrize("prefix", ["", "module.visual."])
def test_one_tower(tower: dict[str, Tensor], prefix: str) -> None:
    model = from_state_dict("facebook/PE-Spatial-T16-512", prefixed(tower, prefix))
    assert isinstance(model, VisionTransformer) and model.name == TOWER
    assert_holds(model, tower)


@pytest.mark.parametrize("layout", ["timm", "published"])
def test_the_vision_tower_of_two(nano: dict[str, Tensor], layout: str) -> None:
    """timm publishes it alone; it is what it is, not a two-tower model with random text."""
    vision = {name: tensor for name, tensor in nano.items() if name.startswith("visual.")}
    model = from_state_dict(NANO, from_published(vision, find_model(NANO).vision, layout))
    assert isinstance(model, VisionTransformer)
    x = random_images(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), from_state_dict(NANO, nano).encode_image(x))


def test_models_are_float32_trainable_and_share_no_memory_with_what_they_were_made_of(nano: dict[str, Tensor]) -> None:
    model = from_state_dict(NANO, nano)
    assert not model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    before = nano["visual.proj"].clone()
    with torch.no_grad():
        model.visual.proj.zero_()
    assert torch.equal(nano["visual.proj"], before)
    assert_holds(from_state_dict(NANO, {n: t.half() for n, t in nano.items()}), {n: t.half() for n, t in nano.items()})


def test_every_key_that_does_not_fit_is_listed(nano: dict[str, Tensor]) -> None:
    state = dict(nano)
    del state["visual.ln_post.bias"], state["logit_scale"]
    state["visual.extra"] = torch.ones(3)
    state["visual.proj"] = torch.ones(192, 7)
    with pytest.raises(CheckpointError) as caught:
        from_state_dict(NANO, state)
    for line in (
        "missing visual.ln_post.bias (192,)",
        "missing logit_scale ()",
        "unexpected visual.extra (3,)",
        "visual.proj is (192, 7), must be (192, 256)",
    ):
        assert f"\n  {line}" in str(caught.value)
    assert f"do not fit {NANO}:" in str(caught.value)


def test_weights_of_another_model_are_named(nano: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=f"do not fit {TOWER} \\(they are those of {NANO}\\)"):
        from_state_dict(TOWER, nano)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("layout", ["published", "timm"])
def test_files_are_recognised_by_their_shapes(
    tmp_path: Path, tower: dict[str, Tensor], suffix: str, layout: str
) -> None:
    path = tmp_path / f"step-100{suffix}"
    state = from_published(tower, find_model(TOWER).vision, layout)
    safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    for given in (path, str(path)):
        model = load_model(given)
        assert model.name == TOWER
        assert_holds(model, tower)


def lang_state() -> dict[str, Tensor]:
    """The weights of a model that shares its shapes with another, without their memory."""
    shapes = published_state_dict(build(find_model("PE-Lang-L14-448")))
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in shapes.items()}


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("PE-Lang-L14-448.pt", "PE-Lang-L14-448"),
        ("PE-Lang-L14-448-Tiling.pt", "PE-Lang-L14-448-Tiling"),
        ("vit_pe_lang_large_patch14_448.fb_tiling.bin", "PE-Lang-L14-448-Tiling"),
        ("PE-Core-L14-336.pt", "PE-Lang-L14-448"),  # a name that the shapes belie
        ("weights.pt", "PE-Lang-L14-448"),
    ],
)
def test_a_file_name_tells_models_of_one_shape_apart(tmp_path: Path, file_name: str, expected: str) -> None:
    assert recognise(lang_state(), Path(file_name).stem).name == expected


def test_a_file_that_fits_nothing(tmp_path: Path, nano: dict[str, Tensor]) -> None:
    path = tmp_path / "a.pt"
    torch.save({n: t for n, t in nano.items() if n != "visual.proj"}, path)
    with pytest.raises(CheckpointError, match=rf"{path}: no known architecture has these shapes"):
        load_model(path)
    with pytest.raises(CheckpointError, match=rf"{path}: these weights do not fit {NANO}:\n  missing visual.proj"):
        create_model(NANO, pretrained=path)
    torch.save({"fc.weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match=rf"{path}: not a Perception Encoder checkpoint: it has fc.weight"):
        load_model(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_model(tmp_path / "b.pt")


@pytest.mark.parametrize(("half", "int8"), [(False, False), (True, False), (True, True)])
def test_written_checkpoints_come_back(tmp_path: Path, nano: dict[str, Tensor], half: bool, int8: bool) -> None:
    model, path = from_state_dict(NANO, nano), tmp_path / "any name.safetensors"
    write_checkpoint(model, path, half=half, int8_tokens=int8, metadata={"step": "7"})
    again = load_model(path)
    assert again.name == NANO
    for name, tensor in published_state_dict(again).items():
        bound = 2.0**-11 * nano[name].abs() + 2.0**-25 if half else torch.zeros(())
        if int8 and name == "token_embedding.weight":
            bound = nano[name].abs().amax(dim=1, keepdim=True) / 253
        assert ((tensor - nano[name]).abs() <= bound).all(), name
    assert (weight_hash(again) == weight_hash(model)) is not half
    if int8:
        assert path.stat().st_size < 36 * 2**20


def test_published_weights_come_from_the_hub(
    tmp_path: Path, tower: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        torch.save(tower, tmp_path / file)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for load in (load_model, lambda name: create_model(name, pretrained=True)):
        for name in (TOWER, "facebook/PE-Spatial-T16-512", "vit_pe_spatial_tiny_patch16_512.fb"):
            assert_holds(load(name), tower)
    assert set(asked) == {("facebook/PE-Spatial-T16-512", "PE-Spatial-T16-512.pt")}


def test_weights_that_cannot_be_had_are_an_error_not_random(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: str) -> str:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    for load in (load_model, lambda name: create_model(name, pretrained=True)):
        with pytest.raises(WeightsUnavailableError, match="PE-Core-L14-336 could not be fetched"):
            load("PE-Core-L14-336")


def test_offline_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own client, which conftest keeps offline; nor are the runtimes timed first."""
    monkeypatch.setattr(choice, "measured_speeds", lambda int8=False: pytest.fail("timed"))
    for load in (load_model, perception_encoder.load):
        wanted = r"download https://.*/facebook/PE-Core-G14-448/.* elsewhere"
        with pytest.raises(WeightsUnavailableError, match=wanted) as caught:
            load("PE-Core-G14-448")
        assert "--model" not in str(caught.value)  # an option of commands only
        assert caught.value.__suppress_context__  # no pages of what the client raises


def test_numbers_of_another_kind_are_listed(tower: dict[str, Tensor]) -> None:
    state = {**tower, "ln_pre.weight": tower["ln_pre.weight"].to(torch.complex64)}
    with pytest.raises(CheckpointError, match=r"ln_pre\.weight holds"):
        from_state_dict(TOWER, state)


def test_a_model_that_differs_from_its_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    entry = find_model("builtin")
    vision = dataclasses.replace(entry.vision, rope=False, attention_pool=False, image_size=96)
    model = build(dataclasses.replace(entry, vision=vision)).to_empty(device="cpu")
    initialize(model, torch.Generator().manual_seed(0))
    write_checkpoint(model, tmp_path / "changed.safetensors")
    loaded = load_model(tmp_path / "changed.safetensors")
    assert isinstance(loaded, CLIP)
    assert loaded.visual.config == vision
    entry = find_entry(tmp_path / "changed.safetensors")
    assert (entry.vision, entry.text) == (vision, loaded.text.config)
    images = torch.randn(2, 3, 96, 96)
    assert torch.equal(loaded.encode_image(images), model.eval().encode_image(images))


def test_the_architecture_of_a_name_and_of_a_file(tmp_path: Path, tower: dict[str, Tensor]) -> None:
    write_checkpoint(from_state_dict(TOWER, tower), tmp_path / "tower.safetensors")
    write_checkpoint(create_model(NANO), tmp_path / "timm.safetensors", layout="timm")
    safetensors.torch.save_file(tower, tmp_path / "unnamed.safetensors")
    assert find_entry(NANO) == find_model(NANO)
    assert find_entry(tmp_path / "tower.safetensors") == find_model(TOWER)
    assert find_entry(tmp_path / "unnamed.safetensors") == find_model(TOWER)
    assert find_entry(tmp_path / "timm.safetensors") == dataclasses.replace(find_model(NANO), text=None)


@pytest.fixture
def spoken(tmp_path: Path, tower: dict[str, Tensor]) -> Callable[[str], Path]:
    """A file of the small tower whose metadata says something about it."""
    tensors = {n: t.contiguous() for n, t in tower.items()}

    def write(changes: str) -> Path:
        safetensors.torch.save_file(tensors, tmp_path / "odd.safetensors", {"model": TOWER, "vision": changes})
        return tmp_path / "odd.safetensors"

    return write


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depth": 100_000}, "depth is 100000; it must be from 1 to 256"),
        ({"heads": 5}, "heads is 5; it must divide width, 192"),
        ({"heads": 96}, "heads is 96; with RoPE width / heads must be a multiple of 4, and width is 192"),
        ({"patch_size": 500, "image_size": 400}, "patch_size is 500; it must be at most image_size, 400"),
        ({"width": 60, "heads": 1, "attention_pool": True}, "the number of pooling heads is 8; it must divide width"),
        ({"output_dim": "9" * 10_000}, "output_dim is '99999"),
        ({"layer_scale": 1e999}, "layer_scale is inf; it must be above 0 and at most 10"),
    ],
)
def test_a_tower_that_cannot_be_is_not_built(spoken, changes: dict[str, object], said: str) -> None:
    path = spoken(json.dumps(changes))
    said = rf"odd\.safetensors: its metadata does not fit {TOWER} \(vision: {said}"
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(path)
    assert len(str(caught.value)) < 400


def test_noise_in_metadata_is_an_error_of_the_checkpoint(spoken) -> None:
    chance, names = random.Random(2504), [field.name for field in dataclasses.fields(find_model(TOWER).vision)]
    values = (0, 1, 2, 7, -1, 2**31, 10**12, 10**30, 0.5, -0.0, float("nan"), True, None, "", "12", [], {}, "[" * 999)
    refused = 0
    for number in range(40):
        changes = json.dumps({chance.choice(names): chance.choice(values) for _ in range(chance.choice((1, 2)))})
        changes = changes[: chance.randrange(len(changes))] if number % 10 == 0 else changes
        path = spoken("[" * 100_000 if number == 5 else changes)
        try:
            load_model(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 25


@pytest.mark.parametrize("file", ["nano.safetensors", "nano.pt", "clip.safetensors"])
def test_the_text_tower_alone_leaves_the_vision_tower_unread(tmp_path: Path, file: str) -> None:
    whole = create_model(NANO)
    path = tmp_path / file
    if file.startswith("nano"):
        write_checkpoint(whole, path, half=True, int8_tokens=file.endswith(".safetensors"))
    else:
        write_checkpoint(whole, path, layout="open_clip")
    whole, model = load_model(path), load_model(path, towers="text")
    assert isinstance(model, CLIP) and model.visual.config == whole.visual.config
    assert all(parameter.is_meta for parameter in model.visual.parameters())
    assert not any(parameter.is_meta for parameter in model.text.parameters())
    tokens = torch.arange(8)[None]
    assert torch.equal(model.encode_text(tokens), whole.encode_text(tokens))


def test_a_vision_tower_that_does_not_fit_is_refused_though_it_is_not_read(tmp_path: Path) -> None:
    state = dict(create_model(NANO).state_dict())
    state["visual.proj"] = state["visual.proj"][:, :-1].contiguous()
    safetensors.torch.save_file(state, tmp_path / "cut.safetensors", metadata={"model": NANO})
    with pytest.raises(CheckpointError, match=r"visual\.proj is \(192, 255\)"):
        load_model(tmp_path / "cut.safetensors", towers="text")
