"""Export a model as the ONNX files that immich's machine-learning service loads from its cache."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception_encoder.errors import ConfigError
from perception_encoder.exports.card import ExportedFile
from perception_encoder.exports.onnx import check_maps, check_onnx, save_onnx
from perception_encoder.files import replacing_new, write_json, write_text, writing
from perception_encoder.models.checkpoints.weights import load_model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import IMMICH_NAMES, immich_name, shown_name
from perception_encoder.preprocess.tokenizer import portable_tokenizer


class _Unit(nn.Module):
    """A tower with embeddings of unit length; token ids may be int32."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, inputs: Tensor) -> Tensor:
        return F.normalize(self.tower(inputs if inputs.is_floating_point() else inputs.long()), dim=-1)


def export_immich(model: str | Path, out: str | Path) -> tuple[ExportedFile, ...]:
    """Write a model of images and texts to a new directory that immich's service loads, checked against torch.

    visual/model.onnx takes `image`, float32 (B, 3, S, S), textual/model.onnx `text`, int32 (B, T); both return unit
    embeddings.

    Args:
        model: A Core model's name or path.
        out: CACHE/clip/NAME, where CACHE is the service's cache and NAME a model of immich's list whose vectors have
            this length, such as ViT-B-32__openai (512) or ViT-L-16-SigLIP2-384__webli (1,024).

    Raises:
        MissingExtraError: The extra `onnx` is not installed.
        ModelError: Loading fails: see `pe.load`.
        ConfigError: The model has no text tower, or no name of immich's list, or not this one, has its size.
        OutputError: Writing fails, or a value differs from torch's by more than 0.001 of the largest.

    Examples:
        >>> pe.export_immich("PE-Core-S16-384", "cache/clip/ViT-B-32__openai")
    """
    network, directory = load_model(model), Path(out)
    if not isinstance(network, CLIP):
        raise ConfigError(f"{model} has no text tower; immich needs a Core model")
    name = immich_name(network.name, dimension := network.text.config.output_dim)
    if directory.name in IMMICH_NAMES.values() and directory.name != name:
        raise ConfigError(f"{network.name} has vectors of {dimension} numbers; name the directory {name}")
    check_onnx()
    size, length = network.visual.config.image_size, network.context_length
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(1, 2 * length + 1, dtype=torch.int32).view(2, -1) % network.text.config.vocabulary
    towers = {"visual": (network.visual, 2 * noise - 1, "image"), "textual": (network.text, ids, "text")}
    metadata = {"model": network.name, "weights": weight_hash(network)}
    files = []
    with writing(directory), replacing_new(directory) as temporary:
        for folder, (tower, example, input_name) in towers.items():
            (temporary / folder).mkdir()
            module, path = _Unit(tower).eval(), temporary / folder / "model.onnx"
            save_onnx(module, example, (input_name, f"{input_name}_embedding"), metadata, path)
            files.append(
                ExportedFile(
                    path=str(directory / folder / path.name),
                    model=shown_name(str(model)) or network.name,
                    precision="float32",
                    difference=check_maps(module, example, path),
                )
            )
        write_json(temporary / "config.json", {"text_cfg": {"context_length": length}})
        pixels = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
        write_json(temporary / "visual" / "preprocess_cfg.json", {"size": [size, size], "mode": "RGB", **pixels})
        write_text(temporary / "textual" / "tokenizer.json", portable_tokenizer(length).to_str())
        write_json(temporary / "textual" / "tokenizer_config.json", {"pad_token": "!"})  # its id is 0
    return tuple(files)
