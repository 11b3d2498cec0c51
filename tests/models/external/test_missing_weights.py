"""A model of another library has its own weights, or there is an error: never silent random ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import perception_encoder as pe
from perception_encoder.errors import ModelError, WeightsUnavailableError
from tests.models.external import embedders


def save_classifier(directory: Path) -> Path:
    """Save a timm model with a classifier, of which timm then accepts any part, and one that asks for this."""
    embedders.save_timm(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= {"num_classes": 10, "classifier": "head"}
    path.write_text(json.dumps({**config, "num_classes": 10}))
    return directory


def save_tolerant(directory: Path) -> Path:
    embedders.save_timm(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["model_args"]["pretrained_strict"] = False
    path.write_text(json.dumps(config))
    return directory


SAVED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "timm": ("timm:local-dir:", embedders.save_timm),
    "timm, classifier": ("timm:local-dir:", save_classifier),
    "timm, tolerant": ("timm:local-dir:", save_tolerant),
    "open_clip": ("open_clip:local-dir:", embedders.save_open_clip),
    "hf": ("hf:", lambda directory: embedders.save_two_towers("CLIP", directory)),
    "st": ("st:", embedders.save_sentence_clip),
    "st, projections": ("st:", embedders.save_sentence_texts),
}


@pytest.fixture
def silent() -> Iterator[None]:
    """Make transformers say nothing of missing weights."""
    library = pytest.importorskip("transformers").utils.logging
    before = library.get_verbosity()
    library.set_verbosity_error()
    yield
    library.set_verbosity(before)


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.usefixtures("silent")
def test_a_file_without_weights_or_without_some_is_an_error(kind: str, tmp_path: Path) -> None:
    prefix, save = SAVED[kind]
    name = f"{prefix}{save(tmp_path / 'model')}"
    pe.load(name, runtime="torch")
    for path in (tmp_path / "model").rglob("*.safetensors"):
        tensors = load_file(path)
        layer = {key for key in tensors if re.search(r"mlp.*weight|linear\.weight", key)}  # of every layer
        assert layer, tensors.keys()
        for lost in ({min(tensors)}, layer):
            save_file({key: tensor for key, tensor in tensors.items() if key not in lost}, path, {"format": "pt"})
            with pytest.raises(ModelError):
                pe.load(name, runtime="torch")
        path.unlink()
        with pytest.raises(ModelError):
            pe.load(name, runtime="torch")
        save_file(tensors, path, {"format": "pt"})


def test_weights_of_another_shape_are_not_replaced_by_random_ones(tmp_path: Path) -> None:
    model = embedders.save_sentence_clip(tmp_path / "model")
    path = model / "sentence_bert_config.json"
    options = {"model_kwargs": {"ignore_mismatched_sizes": True}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))
    (weights,) = model.rglob("*.safetensors")
    tensors = load_file(weights)
    tensors["text_projection.weight"] = tensors["text_projection.weight"][:, :-1].contiguous()
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelError, match=r"text_projection\.weight"):
        pe.load(f"st:{model}")


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("cut", [False, True], ids=["missing", "cut"])
@pytest.mark.usefixtures("silent")
def test_the_error_names_a_weight_that_is_missing_or_has_another_shape(kind: str, cut: bool, tmp_path: Path) -> None:
    prefix, save = SAVED[kind]
    name = f"{prefix}{save(tmp_path / 'model')}"
    for path in (tmp_path / "model").rglob("*.safetensors"):
        tensors = load_file(path)
        largest = max(tensors, key=lambda key: tensors[key].numel())
        kept = {key: tensor for key, tensor in tensors.items() if key != largest}
        changed = {largest: tensors[largest][:-1].contiguous()} if cut else {}
        save_file({**kept, **changed}, path, {"format": "pt"})
        with pytest.raises(ModelError, match=re.escape(largest)) as caught:
            pe.load(name, runtime="torch")
        assert "\n" not in str(caught.value)
        save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("prefix", ["hf:", "st:", "timm:local-dir:", "open_clip:local-dir:"])
@pytest.mark.parametrize("place", ["./no"])
def test_a_directory_that_does_not_exist_is_named(prefix: str, place: str) -> None:
    with pytest.raises(WeightsUnavailableError) as caught:
        pe.load(prefix + place)
    assert str(caught.value) == f"{prefix}{place} could not be loaded: there is no directory {place}"
