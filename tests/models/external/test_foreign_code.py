"""Directories of other libraries' models are data: a pickle that runs code is refused, whatever the library allows.

`make test-lowest` runs this with the oldest versions that pyproject.toml allows.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from perception_encoder.errors import CheckpointError, ModelError
from perception_encoder.inference.load import load, load_layers
from perception_encoder.language_models.decoder import load_decoder
from perception_encoder.language_models.perception_lm import read_perception_lm
from perception_encoder.models.external import OpenClipModel, TimmModel
from tests.models.external.embedders import save_open_clip, save_sentence_clip, save_timm, save_two_towers, tokenizer
from tests.models.external.samples import save_transformer

pytestmark = pytest.mark.security


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def write_pickles(directory: Path, mark: Path, name: str) -> None:
    """A state dict whose reader runs code, as torch saves one now, as it did before 1.6, and as a bare pickle."""
    kind = name.rpartition(" ")[2]
    path = directory / name.split(" ")[0]
    state = {"head.weight": torch.zeros(2), "x": Payload(mark)}
    if kind == "bare":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")


def save_language_model(directory: Path) -> None:
    from tests.tiny_language_models import write_tiny_decoder

    write_tiny_decoder(directory)


Load = Callable[[Path], object]
LIBRARIES: dict[str, tuple[str, tuple[str, ...], Callable[[Path], object], Load]] = {
    "timm": (
        "timm",
        ("pytorch_model.bin", "model.pth", "weights.pt"),
        save_timm,
        lambda path: TimmModel(f"timm:local-dir:{path}", f"local-dir:{path}").model,
    ),
    "open_clip": (
        "open_clip",
        ("open_clip_pytorch_model.bin", "open_clip_model.pth"),
        save_open_clip,
        lambda path: OpenClipModel(f"open_clip:local-dir:{path}", f"local-dir:{path}").model,
    ),
    "open_clip's file": (
        "open_clip",
        ("weights.pt", "weights.bin"),
        save_open_clip,
        lambda path: OpenClipModel("x", f"RN50,{next(path.glob('weights.*'))}").model,
    ),
    "transformers": (
        "transformers",
        ("pytorch_model.bin",),
        partial(save_transformer, "ViT"),
        lambda path: load_layers(f"hf:{path}", "cpu"),
    ),
    "language model": ("transformers", ("pytorch_model.bin",), save_language_model, load_decoder),
    "Perception-LM": (
        "transformers",
        ("pytorch_model.bin",),
        save_language_model,
        lambda path: read_perception_lm(path, torch.device("cpu"), torch.float32),
    ),
}
KINDS = ("zip", "old", "bare")


def without_weights(save: Callable[[Path], object], directory: Path) -> None:
    directory.mkdir()
    save(directory)
    for path in directory.glob("*.safetensors"):
        path.unlink()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_pickle_is_not_run(library: str, tmp_path: Path) -> None:
    module, names, save, load = LIBRARIES[library]
    pytest.importorskip(module)
    for number, (name, kind) in enumerate(product(names, KINDS)):
        directory, mark = tmp_path / f"model-{number}", tmp_path / "mark"
        without_weights(save, directory)
        write_pickles(directory, mark, f"{name} {kind}")
        with pytest.raises(ModelError):
            load(directory)
        assert not mark.exists(), (name, kind)


@pytest.mark.parametrize("library", ["transformers", "language model", "Perception-LM"])
def test_code_beside_the_weights_is_not_run(library: str, tmp_path: Path) -> None:
    """`auto_map` names classes in the directory's own Python files."""
    module, _, save, load = LIBRARIES[library]
    pytest.importorskip(module)
    directory, mark = tmp_path / "model", tmp_path / "mark"
    without_weights(save, directory)
    (directory / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass A: pass\n")
    names = {f"Auto{kind}": "evil.A" for kind in ("Config", "Model", "ModelForCausalLM", "ImageProcessor", "Tokenizer")}
    for path in directory.glob("*config.json"):
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "model_type": "evil", "auto_map": names}))
    with pytest.raises(ModelError):
        load(directory)
    assert not mark.exists()


SWITCH = {"trust_remote_code": True, "code_revision": None}
AUTO = {f"Auto{kind}": "evil.A" for kind in ("Config", "Model", "ImageProcessor", "Processor")}
AUTO |= {"AutoTokenizer": ["evil.A", "evil.A"]}  # type: ignore[dict-item]
SWITCHED = ("model_kwargs", "processor_kwargs", "config_kwargs", "model_args", "tokenizer_args", "config_args")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_texts(directory: Path, **settings: object) -> None:
    """Change the settings of texts of a model of open_clip."""
    path = directory / "open_clip_config.json"
    model = json.loads(path.read_text())["model_cfg"]
    edit(path, model_cfg={**model, "text_cfg": model["text_cfg"] | settings})


def switch_everywhere(directory: Path) -> None:
    """Name code of the directory in each file of a model of transformers, and ask in each for it to run."""
    for path in directory.rglob("*config.json"):
        edit(path, auto_map=AUTO, **SWITCH)


def switched_open_clip(directory: Path) -> str:
    save_open_clip(directory)
    tokenizer().save_pretrained(directory)
    switch_everywhere(directory)
    edit_texts(directory, hf_tokenizer_name="x", tokenizer_kwargs=SWITCH)
    return f"open_clip:local-dir:{directory}"


def open_clip_with_a_text_tower(directory: Path) -> str:
    save_open_clip(directory)
    edit_texts(directory, hf_model_name=str(directory), hf_tokenizer_name=str(directory))
    (directory / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": AUTO, **SWITCH}))
    return f"open_clip:local-dir:{directory}"


def open_clip_with_a_known_config(directory: Path) -> str:
    """The configuration is of a known type, of which transformers has no AutoModel."""
    name = open_clip_with_a_text_tower(directory)
    edit(directory / "config.json", model_type="siglip_text_model")
    return name


def switched_transformer(directory: Path) -> str:
    save_two_towers("CLIP", directory)
    switch_everywhere(directory)
    return f"hf:{directory}"


def switched_sentences(directory: Path) -> str:
    save_sentence_clip(directory)
    switch_everywhere(directory)
    edit(directory / "sentence_bert_config.json", **dict.fromkeys(SWITCHED, SWITCH))
    return f"st:{directory}"


def sentences_of_own_module(directory: Path) -> str:
    save_sentence_clip(directory)
    path = directory / "modules.json"
    (module,) = json.loads(path.read_text())
    path.write_text(json.dumps([module | {"type": "evil.A", "kwargs": ["trust_remote_code"], **SWITCH}]))
    return f"st:{directory}"


def switched_timm(directory: Path) -> str:
    save_timm(directory)
    edit(directory / "config.json", model_args=SWITCH, auto_map=AUTO)
    return f"timm:local-dir:{directory}"


@pytest.mark.parametrize(
    "write",
    [
        switched_open_clip,
        open_clip_with_a_text_tower,
        open_clip_with_a_known_config,
        switched_transformer,
        switched_sentences,
        sentences_of_own_module,
        switched_timm,
    ],
)
def test_a_model_s_files_cannot_ask_for_its_code_to_run(
    write: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, mark = tmp_path / "model", tmp_path / "mark"
    monkeypatch.setattr("builtins.input", lambda question="": mark.touch() or "y")  # nor may a user be asked
    name = write(directory)
    (directory / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass A: pass\n")
    with suppress(ModelError):
        encoder = load(name, runtime="torch")
        encoder.encode_images([Image.new("RGB", (32, 32))])
        encoder.encode_texts(["a dog"])
    assert not mark.exists()


@pytest.mark.parametrize("prefix", ["hf", "st", "random:hf"])
@pytest.mark.parametrize(
    "implementation", ["evil/kernel", "flash_attention_2", {"": "sdpa", "text_config": "evil/kernel"}]
)
def test_code_for_attention_is_not_downloaded(prefix: str, implementation: Any, tmp_path: Path) -> None:
    """transformers would, with the library `kernels`, and refuses the model without it."""
    save_sentence_clip(tmp_path) if prefix == "st" else save_two_towers("CLIP", tmp_path)
    for path in tmp_path.rglob("config.json"):
        edit(path, attn_implementation=implementation)
    if prefix == "random:hf":
        load_layers(f"{prefix}:{tmp_path}", "cpu")
        return
    vectors = load(f"{prefix}:{tmp_path}", runtime="torch").encode_texts(["a dog"])
    for path in tmp_path.rglob("config.json"):
        edit(path, attn_implementation=None)
    assert (vectors == load(f"{prefix}:{tmp_path}", runtime="torch").encode_texts(["a dog"])).all()


def test_a_language_model_downloads_no_code_for_attention(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.tiny_language_models import write_tiny_decoder

    write_tiny_decoder(tmp_path)
    edit(tmp_path / "config.json", attn_implementation="evil/kernel")
    assert load_decoder(tmp_path).model.config._attn_implementation == "sdpa"


def test_open_clip_downloads_no_code_for_attention(tmp_path: Path) -> None:
    name = open_clip_with_a_text_tower(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "_attn_implementation": "evil/kernel"}))
    with pytest.raises(ModelError, match="its text model runs code of its own"):
        load(name, runtime="torch")


def test_an_open_clip_tokenizer_without_padding(tmp_path: Path) -> None:
    save_open_clip(tmp_path)
    words = tokenizer()
    words.pad_token = None
    words.save_pretrained(tmp_path)
    edit_texts(tmp_path, hf_tokenizer_name=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"its tokenizer cannot be loaded.*pad"):
        load(f"open_clip:local-dir:{tmp_path}", runtime="torch").encode_texts(["a dog"])
