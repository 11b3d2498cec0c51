"""Write a two-tower model as a directory that sentence-transformers loads, without this package or code from a file.

A router sends images to timm's vision tower and texts to transformers' `CLIPTextModel`, each with its preprocessing;
a linear map after either is the projection, and embeddings are made unit length. Images are paths, URLs and PIL images
of any mode. The library puts a batch through one route, so images and texts in one call need `batch_size=1`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from perception_encoder.errors import CheckpointError
from perception_encoder.exports.card import write_model_card
from perception_encoder.exports.layouts import timm_config
from perception_encoder.files import make_directory, write_json, write_text, writing
from perception_encoder.models.checkpoints.files import write_tensors
from perception_encoder.models.checkpoints.layouts import StateDict, from_published
from perception_encoder.models.checkpoints.weights import Model, published_state_dict
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig
from perception_encoder.preprocess.tokenizer import END, START, portable_tokenizer, write_preprocessing

_PROGRAM = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")
images = model.encode(["image.jpg"])  # paths, URLs, PIL images
texts = model.encode(["a photo of a cat", "a photo of a dog"])
print(model.similarity(images, texts))
"""
_MODULES = "sentence_transformers.base.modules"
_END_OF_TEXT = "<end_of_text>"
_TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def write_sentence_transformers(
    model: Model, directory: Path, half: bool = False, scores: dict[str, float] | None = None
) -> None:
    """Write a two-tower model with its card; CheckpointError for others, and OutputError.

    `scores`: see `published_scores`. Other files in an existing directory remain.
    """
    with writing(directory):
        _write_modules(model, directory, half)
        precision, packages = "float16" if half else "float32", "sentence-transformers, timm, torchvision and Pillow"
        about = "Both towers for sentence-transformers, with unit embeddings of images and texts."
        write_model_card(directory, model, "sentence-transformers", precision, scores, about, packages, _PROGRAM)


def _write_modules(model: Model, directory: Path, half: bool) -> None:
    if not isinstance(model, CLIP):
        raise CheckpointError(
            f"{model.name} has no text tower; sentence-transformers needs both, so use the timm layout"
        )
    dtype = torch.float16 if half else torch.float32
    published = {name: tensor.detach().cpu() for name, tensor in published_state_dict(model).items()}
    image = from_published(published, model.visual.config, "timm")
    projections = {"image": image.pop("head.weight", None), "text": published["text_projection"].T}
    image.pop("head.bias", None)
    towers = {
        "image": (image, {**timm_config(model), "num_classes": 0, "do_pooling": True}),
        "text": (_text_state(published, model.text.config), _text_config(model.text.config)),
    }
    types, structure = {}, {}
    for kind, (state, config) in towers.items():
        folder = directory / f"{kind}_0_Transformer"
        make_directory(folder)
        write_tensors({name: t.to(dtype).contiguous() for name, t in state.items()}, folder / "model.safetensors", {})
        write_json(
            folder / "config.json", {**config, "dtype": "float32"}
        )  # of the computation, also with float16 files
        modality = {kind: {"method": "forward", "method_output_name": "pooler_output"}}
        output: dict[str, Any] = {"modality_config": modality, "module_output_name": "sentence_embedding"}
        if kind == "image":
            write_preprocessing(folder, (model.visual.config.image_size,) * 2, None)
            output["processor_kwargs"] = {"backend": "pil"}  # torchvision's resizing rounds some pixels otherwise
        write_json(folder / "sentence_bert_config.json", {"transformer_task": "feature-extraction", **output})
        types[folder.name] = f"{_MODULES}.transformer.Transformer"
        structure[kind] = [folder.name]
        if (weight := projections[kind]) is not None:
            folder = directory / f"{kind}_1_Dense"
            make_directory(folder)
            _write_projection(weight.to(dtype).contiguous(), folder)
            types[folder.name] = f"{_MODULES}.dense.Dense"
            structure[kind].append(folder.name)
    _write_tokenizer(model.text.config.context_length, directory / "text_0_Transformer")
    parameters = {
        "default_route": "text",
        "allow_empty_key": True,
        "route_mappings": {str((None, kind)): kind for kind in structure},
    }
    write_json(directory / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    make_directory(directory / "1_Normalize")
    modules = [("", f"{_MODULES}.router.Router"), ("1_Normalize", f"{_MODULES}.normalize.Normalize")]
    rows = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(modules)]
    write_json(directory / "modules.json", rows)
    settings = {"model_type": "SentenceTransformer", "prompts": {}, "similarity_fn_name": "cosine"}
    write_json(directory / "config_sentence_transformers.json", settings)


def _text_state(published: StateDict, config: TextConfig) -> StateDict:
    """Return the text tower under the names of transformers' `CLIPTextModel`."""
    state = {theirs: published[ours] for ours, theirs in _TEXT.items()}
    for layer in range(config.depth):
        here, there = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            state |= {f"{there}{theirs}.{kind}": published[f"{here}{ours}.{kind}"] for ours, theirs in _BLOCK.items()}
            thirds = published[f"{here}attn.in_proj_{kind}"].chunk(3)
            state |= {f"{there}self_attn.{n}_proj.{kind}": t.clone() for n, t in zip("qkv", thirds, strict=True)}
    return {f"text_model.{name}": tensor for name, tensor in state.items()}


def _text_config(config: TextConfig) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "projection_dim": config.output_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context_length,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": START,
        "eos_token_id": END,  # the position whose output is the embedding
        "pad_token_id": END,
    }


def _write_projection(weight: torch.Tensor, directory: Path) -> None:
    config = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    }
    write_json(directory / "config.json", config)
    write_tensors({"linear.weight": weight}, directory / "model.safetensors", {})


def _write_tokenizer(context: int, directory: Path) -> None:
    tokenizer = portable_tokenizer(context)
    tokenizer.no_padding()  # the library pads and cuts itself
    tokenizer.no_truncation()
    write_text(directory / "tokenizer.json", tokenizer.to_str())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": "<start_of_text>",
        "eos_token": _END_OF_TEXT,
        "pad_token": _END_OF_TEXT,  # after the end, where a causal tower's padding changes nothing
        "clean_up_tokenization_spaces": False,
    }
    write_json(directory / "tokenizer_config.json", config)
