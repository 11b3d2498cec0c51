"""Tiny random models that embed, saved as each library has them on the hub: tokenizers know a few words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

_TEXT = (
    "a b red green blue dog cat mug photo of the query document task search result title none text : | "
    "black mountain bicycle piano receipt bowl soup crowd in street on table"
)
WORDS = _TEXT.split()
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>"]
SPECIAL += ["<|vision_start|>", "<|vision_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} "
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'video' %}<|video_pad|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    " <|im_end|>{% endfor %}"
)


def tokenizer(length: int = 16) -> Any:
    """A tokenizer of words, which ends each text with <eos>."""
    transformers = pytest.importorskip("transformers")
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    core = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=SPECIAL[4:],
        model_max_length=length,
    )


def _seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def save_full_size(kind: str, directory: Path) -> Path:
    """Save a ViT-S/16 of timm, or a CLIP ViT-B/32 of another library."""
    if kind == "timm":
        return save_timm(directory, architecture="vit_small_patch16_224")
    if kind == "open_clip":
        return save_open_clip(directory, pytest.importorskip("open_clip").get_model_config("ViT-B-32"))
    if kind == "st-CLIP":
        return save_sentence_clip(directory, full=True)
    transformers = pytest.importorskip("transformers")
    _seeded(lambda: transformers.CLIPModel(transformers.CLIPConfig())).save_pretrained(directory)
    transformers.CLIPImageProcessor().save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def save_two_towers(kind: str, directory: Path) -> Path:
    """Save a CLIP, Siglip or Siglip2 (whose images keep their aspect ratio), with its processor."""
    transformers = pytest.importorskip("transformers")
    tower = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**tower, "vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 16}
    text |= {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    sizes = {"patch_size": 16, "num_patches": 256} if kind == "Siglip2" else {"patch_size": 8, "image_size": 32}
    vision = {**tower, **sizes}
    options = {"projection_dim": 20} if kind == "CLIP" else {}
    if kind == "Siglip2":
        text |= {"projection_size": 24, "max_position_embeddings": 64}  # sentence-transformers cuts texts there
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **options)
    model = _seeded(lambda: getattr(transformers, f"{kind}Model")(config))
    if kind != "CLIP":
        with torch.no_grad():
            model.logit_scale.fill_(2.0)
            model.logit_bias.fill_(-3.0)
    model.save_pretrained(directory)
    processor = {
        "CLIP": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        "Siglip": {"size": {"height": 32, "width": 32}},
        "Siglip2": {"patch_size": 16, "max_num_patches": 16},
    }[kind]
    getattr(transformers, f"{kind}ImageProcessor")(**processor).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def save_flava(directory: Path) -> Path:
    """Save a FLAVA, whose embeddings are those of all tokens."""
    transformers = pytest.importorskip("transformers")
    tower = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**tower, "vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 16}
    image = {**tower, "patch_size": 8, "image_size": 32}
    config = transformers.FlavaConfig(
        text_config=text, image_config=image, multimodal_config=tower, hidden_size=24, projection_dim=20
    )
    _seeded(lambda: transformers.FlavaModel(config)).save_pretrained(directory)
    square = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size=square, crop_size=square).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def save_open_clip(directory: Path, config: dict[str, Any] | None = None) -> Path:
    """Save an open_clip model as `hf-hub:` has them, by default a tiny one."""
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "layers": 1, "heads": 2}
    config = config or {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    model = _seeded(lambda: open_clip.CLIP(**config))
    directory.mkdir(exist_ok=True)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    return directory


def save_timm(directory: Path, side: int = 224, architecture: str = "test_vit") -> Path:
    """Save a timm model as the hub has them; its positions are resampled for another `side`."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    wide = {"embed_dim": 128, "num_heads": 4} if architecture == "test_vit" else {}
    model = _seeded(lambda: timm.create_model(architecture, num_classes=0, **wide))
    directory.mkdir(exist_ok=True)
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": wide,
        "pretrained_cfg": {"input_size": [3, side, side]},
    }
    (directory / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), directory / "model.safetensors")
    return directory


def save_sentence_clip(directory: Path, kind: str = "CLIP", full: bool = False) -> Path:
    """Save a two-tower model of texts and images as sentence-transformers has them, with prompts."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Transformer

    save = save_full_size if full else save_two_towers
    inner = save(kind, directory.with_name(directory.name + "-inner"))
    prompts = {"query": "query : ", "document": "document : "}
    library.SentenceTransformer(modules=[Transformer(str(inner))], prompts=prompts, device="cpu").save(str(directory))
    return directory


def save_sentence_router(directory: Path) -> Path:
    """Save a model of texts that has a part for queries and one for documents, and no prompts."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    parts = [
        _seeded(lambda n=n: StaticEmbedding(tokenizer(), torch.randn(len(SPECIAL) + len(WORDS), 16) + n))
        for n in (0, 1)
    ]
    router = Router.for_query_document(query_modules=parts[:1], document_modules=parts[1:])
    library.SentenceTransformer(modules=[router], device="cpu").save(str(directory))
    return directory


def add_own_code(library: str, model: Path, mark: Path) -> None:
    """Let a saved CLIP ("hf" or "st") need code of its own, which writes a file `mark` when it runs."""
    if library == "hf":
        code = "from transformers import CLIPConfig, CLIPModel\nclass OwnConfig(CLIPConfig):\n    model_type = 'own'\n"
        code += "class OwnModel(CLIPModel):\n    config_class = OwnConfig\n"
        changes = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
        edited = model / "config.json"
        edited.write_text(json.dumps(json.loads(edited.read_text()) | changes))
    else:
        code = "from sentence_transformers.base.modules import Transformer\nclass Own(Transformer):\n    pass\n"
        edited = model / "modules.json"
        (module,) = json.loads(edited.read_text())
        edited.write_text(json.dumps([module | {"type": "own.Own"}]))
    (model / "own.py").write_text(f"{code}open({str(mark)!r}, 'w').close()\n")


_GEMMA = {"num_key_value_heads": 1, "head_dim": 12, "sliding_window": 8, "bos_token_id": 1, "eos_token_id": 2}
_TEXT_MODELS: dict[str, dict[str, Any]] = {
    "Bert": {},
    "Gemma3Text": {**_GEMMA, "use_bidirectional_attention": True},
    "EmbeddingGemma2Text": {
        **_GEMMA,
        "layer_types": ["sliding_attention", "full_attention"],
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 8,
        "embedding_dim": 24,
    },
}


def _text_transformer(kind: str, directory: Path) -> Any:
    """A tiny model of texts by the name of its configuration, as sentence-transformers' first module."""
    transformers = pytest.importorskip("transformers")
    from sentence_transformers.base.modules import Transformer

    sizes = {"vocab_size": len(SPECIAL) + len(WORDS), "hidden_size": 24, "intermediate_size": 32}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**sizes, **_TEXT_MODELS[kind])
    _seeded(lambda: getattr(transformers, f"{kind}Model")(config)).save_pretrained(directory)
    tokenizer(64).save_pretrained(directory)
    return Transformer(str(directory))


def save_sentence_texts(directory: Path, kind: str = "Gemma3Text") -> Path:
    """Save a model of texts like EmbeddingGemma: bidirectional Gemma 3, mean, two projections, prompts, unit length."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [
        _text_transformer(kind, directory.with_name(directory.name + "-inner")),
        Pooling(24, "mean"),
        _seeded(lambda: Dense(24, 48, bias=False, activation_function=torch.nn.Identity())),
        _seeded(lambda: Dense(48, 24, bias=False, activation_function=torch.nn.Identity())),
        Normalize(),
    ]
    prompts = {"query": "task : search result | query : ", "document": "title : none | text : "}
    library.SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(directory))
    return directory


def save_sentence_roles(directory: Path) -> Path:
    """Save a model of texts with a BERT for queries and another for documents, which leaves out the prompt's tokens."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Pooling

    inner = [
        _text_transformer(kind, directory.with_name(f"{directory.name}-{kind}")) for kind in ("Bert", "Gemma3Text")
    ]
    query, document = ([part, Pooling(24, "mean", include_prompt=False)] for part in inner)
    router = Router.for_query_document(query_modules=query, document_modules=document)
    prompts = {"query": "search : ", "document": "title : none | text : "}
    library.SentenceTransformer(modules=[router], prompts=prompts, device="cpu").save(str(directory))
    return directory


def save_sentence_vlm(directory: Path) -> Path:
    """Save a model of texts, images and videos like Qwen3-VL-Embedding: last token, unit length, Matryoshka."""
    library, transformers = pytest.importorskip("sentence_transformers"), pytest.importorskip("transformers")
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    inner = directory.with_name(directory.name + "-inner")
    names = {name: number for number, name in enumerate(SPECIAL)}
    config = transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": len(SPECIAL) + len(WORDS),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "pad_token_id": 0,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=names["<|image_pad|>"],
        video_token_id=names["<|video_pad|>"],
        vision_start_token_id=names["<|vision_start|>"],
        vision_end_token_id=names["<|vision_end|>"],
    )
    _seeded(lambda: transformers.Qwen3VLModel(config)).save_pretrained(inner)
    patches = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**patches, size=size),
        tokenizer=tokenizer(512),
        video_processor=transformers.Qwen3VLVideoProcessor(
            **patches, size={"shortest_edge": 4 * 16 * 16, "longest_edge": 8 * 64 * 64}
        ),
        chat_template=CHAT,
    )
    processor.save_pretrained(inner)
    modules = [Transformer(str(inner)), Pooling(32, "lasttoken"), Normalize()]
    prompts = {"query": "search : ", "document": ""}
    library.SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(directory))
    return directory
