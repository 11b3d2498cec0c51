"""Convert models to other layouts: a weights file, or a directory that timm, open_clip or sentence-transformers loads.

A directory has the weights, a card, and what a weights file cannot hold: the architecture and the published
preprocessing (squash, bilinear, mean and deviation 0.5). By a model's name, timm and open_clip preprocess differently.
sentence-transformers needs neither this package nor code from the directory: a router sends images to timm's vision
tower and texts to transformers' `CLIPTextModel`, each with its preprocessing; a linear map after either is the
projection, and embeddings are made unit length. Images are paths, URLs and PIL images. That library puts a batch
through one route, so images and texts in one call need `batch_size=1`. It prepares transparent, 16-bit and turned
images in its own way, which no file of the directory can change: the card says how to prepare them.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from perception_encoder.errors import CheckpointError, ConfigError, OutputError
from perception_encoder.exports.card import published_scores, write_model_card
from perception_encoder.files import make_directory, write_json, write_text, writing
from perception_encoder.models.checkpoints.files import SUFFIXES, check_suffix, write_tensors
from perception_encoder.models.checkpoints.layouts import StateDict, from_published
from perception_encoder.models.checkpoints.weights import Model, load_model, published_state_dict, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig
from perception_encoder.models.registry import MODELS, find_model, shown_name
from perception_encoder.preprocess.tokenizer import END, START, portable_tokenizer, write_preprocessing

Layout = Literal["published", "timm", "open_clip", "sentence-transformers"]
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
_SENTENCES = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")
images = model.encode(["image.jpg"])  # paths, URLs, PIL images
texts = model.encode(["a photo of a cat", "a photo of a dog"])
print(model.similarity(images, texts))
"""
_CARDS = {  # what the directory holds, the packages that its program needs, the program
    "timm": ("The vision tower for timm; transformers reads it, too, with AutoModel.", "timm and Pillow", _TIMM),
    "open_clip": ("Both towers for open_clip.", "open_clip_torch and Pillow", _OPEN_CLIP),
    "sentence-transformers": (
        "Both towers for sentence-transformers, with unit embeddings of images and texts. They equal `pe`'s for opaque "
        "images of 8 bits a channel. For others, pass PIL images that are prepared as follows. Turned by EXIF: "
        "`ImageOps.exif_transpose(image)`. Transparent: `image.resize((size, size), Image.Resampling.BILINEAR)"
        '.convert("RGB")`, where `size` is that of `image_0_Transformer/preprocessor_config.json`; transparent palette '
        'images: `image.info.pop("transparency")`. With 16 bits: `Image.fromarray((numpy.asarray(image) / 257).round()'
        '.astype("uint8"))`.',
        "sentence-transformers, timm, torchvision and Pillow",
        _SENTENCES,
    ),
}
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
    """Convert a checkpoint to another layout.

    Args:
        source: The path of a checkpoint in any layout, or a model's name.
        out: A .safetensors, .pt, .pth or .bin file. For timm and open_clip, a name without suffix is a directory, which
            also gets a card and the library's configuration with the published preprocessing. For sentence-transformers
            it is always a directory, which needs nothing of this package.
        to: "published", "timm", "open_clip" or "sentence-transformers".
        half: Write float16.
        overwrite: Replace an existing `out`.

    Raises:
        ModelError: Loading fails (see `pe.load`), or the layout cannot hold the model.
        ConfigError: `out` has another suffix.
        OutputError: `out` exists and is not to be overwritten, or is the source; or writing fails.

    Examples:
        >>> pe.convert("PE-Core-L14-336", "core-open-clip", to="open_clip")
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
        model=shown_name(str(source)) or model.name,
        layout=to,
        dtype="float16" if half else "float32",
        omitted=omitted,
        configured=as_directory,
    )


def write_layout_directory(
    model: Model, directory: Path, layout: str, half: bool = False, scores: dict[str, float] | None = None
) -> int:
    """Write weights, configuration and card for another library; return the number of omitted tensors.

    `layout`: "timm", "open_clip" or "sentence-transformers". `scores`: see `published_scores`. Other files in an
    existing directory remain. Raises CheckpointError (a model that the library cannot build) and OutputError.
    """
    with writing(directory):
        if layout == "sentence-transformers":
            _write_modules(model, directory, half)
            omitted = 0
        else:
            tower = with_scale(model) if layout == "timm" else model
            config = timm_config(tower) if layout == "timm" else open_clip_config(tower)
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
