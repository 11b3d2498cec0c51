"""Write directories that timm or open_clip loads as `local-dir:PATH`.

A directory has the weights, a card, and what a weights file cannot hold: the architecture and the published
preprocessing (squash, bilinear, mean and deviation 0.5). By a model's name, timm and open_clip preprocess differently.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from perception_encoder.errors import CheckpointError
from perception_encoder.exports.card import write_model_card
from perception_encoder.files import write_json, writing
from perception_encoder.models.checkpoints.weights import Model, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import MODELS, find_model

CONFIG_FILES = {"timm": "config.json", "open_clip": "open_clip_config.json"}
WEIGHT_FILES = {"timm": "model.safetensors", "open_clip": "open_clip_model.safetensors"}

_CARRIER = "PE-Core-T16-384"  # timm's architecture for models that timm does not list; `model_args` say the rest
_PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
_TIMM = """\
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
with Image.open("image.jpg") as image, torch.inference_mode():
    pixels = transform(image.convert("RGB"))[None]
    tokens = model.forward_features(pixels)  # (1, N, D)
    output = model(pixels)
print(tokens.shape, output.shape)
"""
_OPEN_CLIP = """\
import open_clip
import torch
from PIL import Image

model, transform = open_clip.create_model_from_pretrained("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:.")
model.eval()
with Image.open("image.jpg") as image, torch.inference_mode():
    images = model.encode_image(transform(image)[None], normalize=True)
    texts = model.encode_text(tokenizer(["a photo of a cat", "a photo of a dog"]), normalize=True)
print((images @ texts.T * model.logit_scale.exp()).softmax(-1))
"""
_CARDS = {  # what the directory holds, the packages that its program needs, the program
    "timm": ("The vision tower for timm; transformers reads it, too, with AutoModel.", "timm and Pillow", _TIMM),
    "open_clip": ("Both towers for open_clip.", "open_clip_torch and Pillow", _OPEN_CLIP),
}


def write_layout_directory(
    model: Model, directory: Path, layout: str, half: bool = False, scores: dict[str, float] | None = None
) -> int:
    """Write weights, configuration and card for another library; return the number of omitted tensors.

    `layout`: "timm" or "open_clip". `scores`: see `published_scores`. Other files in an existing directory remain.
    Raises CheckpointError (a model that the library cannot build) and OutputError.
    """
    tower = with_scale(model) if layout == "timm" else model
    config = timm_config(tower) if layout == "timm" else open_clip_config(tower)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    omitted = write_checkpoint(tower, directory / WEIGHT_FILES[layout], half, layout=layout)
    write_json(directory / CONFIG_FILES[layout], config)
    write_model_card(directory, model, layout, "float16" if half else "float32", scores, *_CARDS[layout])
    return omitted


def with_scale(model: Model) -> Model:
    """Return the tower with a LayerScale of 1 if only timm's architecture of that name has one.

    transformers drops `init_values: null`, so that timm builds LayerScale and finds no weights for it.
    """
    if isinstance(model, CLIP) or model.config.layer_scale is not None or not find_model(model.name).vision.layer_scale:
        return model
    shared = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, shared).add_layer_scale(1.0)


def timm_config(model: Model) -> dict[str, Any]:
    """Return timm's `config.json` for a model's vision tower: its sizes and the preprocessing."""
    tower = model.visual if isinstance(model, CLIP) else model
    config = tower.config
    arguments = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_width / config.width,
        "class_token": config.class_token,
        "use_post_transformer_norm": config.final_norm,
        "use_fc_norm": False,
        "init_values": config.layer_scale,
        "use_rot_pos_emb": config.rope,
        "rope_grid_offset": float(config.class_token),
        "ref_feat_shape": [config.grid, config.grid],  # positions count patches, whatever the size
        "global_pool": tower.global_pool,
    }
    changed = {"fixed_input_size": True, "first_conv": "patch_embed.proj", "classifier": "head"}
    return {
        "architecture": find_model(model.name).timm or MODELS[_CARRIER].timm,
        "num_classes": config.output_dim or 0,
        "num_features": config.width,
        "global_pool": tower.global_pool,
        "model_args": arguments,
        "pretrained_cfg": {name: v for name, v in tower.pretrained_cfg.items() if name != "architecture"} | changed,
    }


def open_clip_config(model: Model) -> dict[str, Any]:
    """Return open_clip's `open_clip_config.json`; CheckpointError unless open_clip can build both towers."""
    entry = find_model(model.name)
    if not isinstance(model, CLIP):
        raise CheckpointError("open_clip has only two-tower models; use the timm layout")
    vision, text = model.visual.config, model.text.config
    if entry.open_clip is None or vision != entry.vision:
        raise CheckpointError(
            f"open_clip builds only the published vision towers, and that of this {model.name} differs; use the timm "
            "layout, or name a weights file, such as open_clip_model.safetensors"
        )
    return {
        "model_cfg": {
            "embed_dim": text.output_dim,
            "vision_cfg": {
                "image_size": vision.image_size,
                "timm_model_name": entry.timm,
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": None,
            },
            "text_cfg": {
                "context_length": text.context_length,
                "vocab_size": text.vocabulary,
                "width": text.width,
                "heads": text.heads,
                "layers": text.depth,
            },
            "custom_text": True,
        },
        "preprocess_cfg": {**_PIXELS, "resize_mode": "squash"},
    }
