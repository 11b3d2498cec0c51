"""Convert checkpoints to other layouts, and write directories that timm, open_clip or sentence-transformers loads.

A directory has the weights, a card, and what a weights file cannot hold: the architecture and the published
preprocessing (squash, bilinear, mean and deviation 0.5). By a model's name, timm and open_clip preprocess differently.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from perception_encoder.errors import CheckpointError, ConfigError, OutputError
from perception_encoder.files import write_json, writing
from perception_encoder.models.card import Card, published_scores, write_card
from perception_encoder.models.checkpoints.files import SUFFIXES, check_suffix
from perception_encoder.models.checkpoints.sentence_transformers import write_sentence_transformers
from perception_encoder.models.checkpoints.weights import Model, load_model, weight_hash, write_checkpoint
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
_SENTENCE_TRANSFORMERS = """\
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")
images = model.encode([Image.open("image.jpg").convert("RGB")])
texts = model.encode(["a photo of a cat", "a photo of a dog"])
print(model.similarity(images, texts))
"""
_CARDS = {  # what the directory holds, the packages that its program needs, the program
    "timm": ("The vision tower for timm; transformers reads it, too, with AutoModel.", "timm and Pillow", _TIMM),
    "open_clip": ("Both towers for open_clip.", "open_clip_torch and Pillow", _OPEN_CLIP),
    "sentence-transformers": (
        "Both towers for sentence-transformers, with unit embeddings of images and texts.",
        "sentence-transformers, timm, torchvision and Pillow",
        _SENTENCE_TRANSFORMERS,
    ),
}

Layout = Literal["published", "timm", "open_clip", "sentence-transformers"]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted checkpoint."""

    path: str
    model: str
    layout: Layout
    dtype: Literal["float32", "float16"]
    omitted: int
    """Number of tensors that the layout cannot hold: in timm's, those of the text tower."""
    configured: bool
    """Whether the library's configuration was written beside the weights."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def convert(
    source: str | Path, out: str | Path, to: Layout = "published", *, half: bool = False, overwrite: bool = False
) -> Conversion:
    """Convert a checkpoint of any layout, or a model by name, to another layout.

    `out`: a .safetensors, .pt, .pth or .bin file; for timm and open_clip, a name without suffix is a directory, which
    also gets the library's configuration with the published preprocessing, and a card; for sentence-transformers, it is
    always a directory, which needs nothing of this package. `half`: write float16. Raises UnknownModelError,
    CheckpointError (a model that the layout cannot hold), ConfigError (a suffix), and OutputError if `out` exists and
    is not to be overwritten, or is the source.

        pe.convert("PE-Core-L14-336", "core-open-clip", to="open_clip")
    """
    path = Path(out)
    if to == "sentence-transformers" and path.suffix in SUFFIXES:
        raise ConfigError(f"{path}: sentence-transformers reads a directory; give a name without {path.suffix}")
    as_directory = to == "sentence-transformers" or (to in CONFIG_FILES and not path.suffix)
    if not as_directory:
        check_suffix(path)
    if path.exists() and (not overwrite or (Path(source).exists() and path.samefile(source))):
        raise OutputError(f"{path} exists; choose another name, or --overwrite it, unless it is the input")
    model = load_model(source)
    if as_directory:
        omitted = write_layout_directory(model, path, to, half, published_scores(source))
    else:
        omitted = write_checkpoint(model, path, half, layout=to)
    return Conversion(
        path=str(path),
        model=model.name,
        layout=to,
        dtype="float16" if half else "float32",
        omitted=omitted,
        configured=as_directory,
    )


def write_layout_directory(
    model: Model, directory: Path, layout: str, half: bool = False, scores: dict[str, float] | None = None
) -> int:
    """Write weights, configuration and card for another library; return the number of omitted tensors.

    `layout`: "timm", "open_clip" or "sentence-transformers". `scores`: known ones of these weights. Other files in an
    existing directory remain. Raises CheckpointError (a model that the library cannot build) and OutputError.
    """
    weights = f"{weight_hash(model)}, in {'float16' if half else 'float32'}"
    if layout == "sentence-transformers":
        omitted = 0
        with writing(directory):
            write_sentence_transformers(model, directory, timm_config(model), half)
    else:
        model = with_scale(model) if layout == "timm" else model
        config = timm_config(model) if layout == "timm" else open_clip_config(model)
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        omitted = write_checkpoint(model, directory / WEIGHT_FILES[layout], half, layout=layout)
        write_json(directory / CONFIG_FILES[layout], config)
    entry, (about, packages, program) = find_model(model.name), _CARDS[layout]
    card = Card(
        title=f"{entry.builtin or model.name} for {layout}",
        library=layout,
        about=about,
        weights=weights,
        licence=entry.licence,
        packages=packages,
        program=program,
        scores=scores or {},
    )
    write_card(directory, card)
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
