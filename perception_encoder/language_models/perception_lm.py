"""Read and write transformers' PerceptionLM: the published Perception Language Models, and ours in their layout.

The parts of a published model (facebook/Perception-LM-*, under a non-commercial licence) become this package's tower
and projector and a language model, so that everything else is shared. As in the reference code, and unlike
transformers, several images become one square each, and texts are not stripped.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from perception_encoder.errors import ConfigError, ModelError, needs_extra
from perception_encoder.exports.card import verify, write_card
from perception_encoder.exports.layouts import timm_config, with_scale
from perception_encoder.files import replacing_new, writing
from perception_encoder.language_models.decoder import SMOLLM2, load_pretrained, make_decoder
from perception_encoder.language_models.language_model import LanguageModel
from perception_encoder.language_models.model import PerceptionLanguageModel, Projector, scales_logits
from perception_encoder.language_models.weights import PE_LANG, find_language_model, read_language_model
from perception_encoder.models.checkpoints.layouts import from_published, to_published
from perception_encoder.models.checkpoints.weights import published_state_dict, state_hash
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.conversation import ask
from perception_encoder.preprocess.tiling import MediaConfig, media_pixels
from perception_encoder.progress import quiet_loading

SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""The system message of the published models."""
TEMPLATE = (
    "<|begin_of_text|>{% if messages[0].role != 'system' %}<|start_header_id|>system<|end_header_id|>\n\n"
    + SYSTEM
    + "<|eot_id|>{% endif %}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""The reference's prompt `plm_sft`: media, then the question without a separator."""
OURS = "perception_encoder"
"""Field of config.json in directories of `export_perception_lm`: chat template, context, tiles, vocabulary."""
IMAGE, VIDEO = "<|image|>", "<|video|>"
"""Tokens that stand for media in prompts: added to the tokenizer, never generated."""
_JOIN_PARTS = (
    "{% set ns = namespace(rows=[]) %}{% for message in messages %}{% set row = namespace(text='') %}"
    "{% if message.content is string %}{% set row.text = message.content %}{% else %}"
    "{% for part in message.content %}{% if part.type in ('image', 'video') %}"
    "{% set row.text = row.text + '<|' + part.type + '|>' %}"
    "{% else %}{% set row.text = row.text + part.text | replace('<|image|>', '') | replace('<|video|>', '') %}"
    "{% endif %}{% endfor %}{% endif %}"
    "{% set ns.rows = ns.rows + [dict(message, content=row.text)] %}{% endfor %}{% set messages = ns.rows %}"
)
"""Start of a chat template: makes the lists of parts that transformers passes the strings that templates expect."""
_PROGRAM = """\
from transformers import pipeline

answer = pipeline("image-text-to-text", model=".")
question = [{"type": "image", "url": "image.jpg"}, {"type": "text", "text": "What is in the image?"}]
messages = [{"role": "user", "content": question}]
print(answer(text=messages, max_new_tokens=64, return_full_text=False)[0]["generated_text"])
"""
_ABOUT = """\
A vision-language model for transformers, as PerceptionLMForConditionalGeneration. An image becomes """
_TILED = """\
squares of {size} px: a thumbnail and at most {tiles} tiles. With several images in a conversation, this package tiles
none; pass `processor_kwargs={{"vision_input_type": "vanilla"}}` to `processor.apply_chat_template` for the same."""


def read_perception_lm(source: str | Path, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """Read a Perception-LM from a directory or the hub; WeightsUnavailableError, and MissingExtraError."""
    with needs_extra("lang", "transformers"):
        from transformers import AutoTokenizer, PerceptionLMForConditionalGeneration
    whole, tokenizer = load_pretrained(source, PerceptionLMForConditionalGeneration, AutoTokenizer, dtype)
    return wrap_perception_lm(Path(source).name, whole.to(device), tokenizer)


def wrap_perception_lm(name: str, whole: Any, tokenizer: Any) -> LanguageModel:
    """Wrap transformers' PerceptionLM and its tokenizer; the weights are shared, not copied."""
    vision, ours = _tower_of(whole.model.vision_tower.timm_model, name), getattr(whole.config, OURS, {})
    template, context = ours.get("chat_template", TEMPLATE), ours.get("context")
    decoder = make_decoder(name, _causal_model(whole, ours.get("vocabulary")), tokenizer, context, template)
    first, second = whole.model.multi_modal_projector.linear_1, whole.model.multi_modal_projector.linear_2
    with torch.device("meta"):
        projector = Projector(first.in_features, second.out_features, whole.config.projector_pooling_ratio)
    projector.projector[0], projector.projector[2] = first, second
    tiles = ours.get("tiles", 36 if whole.device.type == "cuda" else 4)  # the published models were trained with 36
    media = MediaConfig(image_size=vision.config.image_size, tiles=tiles)
    return LanguageModel(name, PerceptionLanguageModel(vision, projector, decoder.model), decoder, media)


def _tower_of(timm_model: Any, name: str) -> VisionTransformer:
    block = timm_model.blocks[0]
    config = VisionConfig(
        image_size=timm_model.patch_embed.img_size[0],
        patch_size=timm_model.patch_embed.patch_size[0],
        width=timm_model.embed_dim,
        depth=len(timm_model.blocks),
        heads=block.attn.num_heads,
        mlp_width=block.mlp.fc1.out_features,
        class_token=timm_model.cls_token is not None,
        attention_pool=False,
        final_norm=not isinstance(timm_model.norm, nn.Identity),
        layer_scale=0.1 if getattr(block, "gamma_1", None) is not None else None,
    )
    with torch.device("meta"):
        tower = VisionTransformer(config, name)
    tower.load_state_dict(to_published(timm_model.state_dict(), config), assign=True)
    return tower


def _causal_model(whole: Any, vocabulary: int | None) -> Any:
    """Return the language model with its output map, without the tokens of media, which are never generated."""
    from transformers import AutoModelForCausalLM

    head = whole.lm_head
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(whole.config.text_config, trust_remote_code=False)
        if vocabulary is not None and vocabulary < head.out_features:
            head = nn.Linear(head.in_features, vocabulary, bias=False)
    if head is not whole.lm_head:
        head.weight = nn.Parameter(whole.lm_head.weight[:vocabulary])
    setattr(causal, causal.base_model_prefix, whole.model.language_model)
    causal.set_output_embeddings(head)
    causal.generation_config = whole.generation_config
    return causal


@dataclass(frozen=True, kw_only=True)
class PerceptionLmDirectory:
    """An exported language model."""

    path: str
    model: str
    parameters: int
    difference: float
    """Maximum difference between transformers' logits and this package's, relative to the largest."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def export_perception_lm(run: str | Path, out: str | Path, *, half: bool = False) -> PerceptionLmDirectory:
    """Write a trained language model as a new directory for transformers, compared with this package.

    AutoModelForImageTextToText, AutoProcessor and the pipeline "image-text-to-text" read the directory, and
    `load_assistant` too. The vocabulary gets tokens for images and videos, which are never generated.

    Args:
        run: The directory or the file of a language alignment, or `builtin-lang`.
        out: A new directory.
        half: Write float16.

    Raises:
        UnknownModelError, CheckpointError, MissingExtraError: See `load_assistant`.
        ConfigError: PerceptionLM cannot hold a linear projector, or a language model that changes its logits.
        ModelError: transformers' prompts differ.
        OutputError: Writing fails, or transformers' logits differ.

    Examples:
        >>> pe.export_perception_lm("runs/mine", "my-plm")
    """
    with needs_extra("lang"):
        import timm  # noqa: F401
        import torchvision  # noqa: F401
        import transformers  # noqa: F401
    source, out = Path(find_language_model(run)), Path(out)
    if not source.is_file():
        raise ConfigError(f"{run} is not a run of language alignment; a Perception-LM has this layout already")
    with quiet_loading():
        model = read_language_model(source, torch.device("cpu"), torch.float32)
        _check_parts(model)
        tokenizer, vocabulary = _with_media_tokens(model)
        whole = _assemble(model, tokenizer, vocabulary)
        difference = _logit_difference(model, whole)
        with writing(out, also=(RuntimeError,)), replacing_new(out) as temporary:
            whole.to(torch.float16 if half else torch.float32).save_pretrained(temporary)
            _write_processor(model, tokenizer, temporary)
            _write_card(temporary, model, whole, half)
    parameters = sum(parameter.numel() for parameter in whole.parameters())
    return PerceptionLmDirectory(path=str(out), model=model.name, parameters=parameters, difference=difference)


def _check_parts(model: LanguageModel) -> None:
    projector, decoder = model.model.projector, model.decoder
    causal: Any = decoder.model
    reason = None
    if len(projector.projector) != 3:
        reason = "the projector is linear, and its projector has two layers"
    elif scales_logits(causal.config.get_text_config()) or causal.get_output_embeddings().bias is not None:
        reason = f"{decoder.name} rescales its logits or adds a bias to them"
    elif model.media.image_size // model.model.vision.config.patch_size < projector.pool:
        reason = f"an image has fewer rows of tokens than are pooled into one, {projector.pool}"
    if reason:
        raise ConfigError(f"transformers' PerceptionLM cannot hold this model: {reason}")


def _with_media_tokens(model: LanguageModel) -> tuple[Any, int]:
    """Return the tokenizer with tokens for media, and the old vocabulary's size; add embeddings if too few."""
    tokenizer, causal = copy.deepcopy(model.decoder.tokenizer), model.decoder.model
    tokenizer.add_tokens([IMAGE, VIDEO], special_tokens=True)
    tokenizer._set_model_specific_special_tokens({"image_token": IMAGE, "video_token": VIDEO})
    tokenizer.model_max_length = model.decoder.prompts.context
    rows: int = causal.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if len(tokenizer) > rows:
        causal.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # type: ignore[operator]
        for table in (causal.get_input_embeddings(), causal.get_output_embeddings()):  # type: ignore[operator]
            table.weight.data[rows:] = 0
    return tokenizer, rows


def _assemble(model: LanguageModel, tokenizer: Any, vocabulary: int) -> Any:
    """Return transformers' model; all weights but the tower's are shared."""
    from transformers import AutoModel, GenerationConfig, PerceptionLMConfig, PerceptionLMForConditionalGeneration

    causal: Any = model.decoder.model
    projector, prompts = model.model.projector, model.decoder.prompts
    named = copy.copy(model.model.vision)
    named.name = PE_LANG  # an architecture that timm has
    tower: Any = with_scale(named)
    timm = timm_config(tower)
    vision = {name: timm[name] for name in ("architecture", "model_args")}
    config = PerceptionLMConfig(
        vision_config={"model_type": "timm_wrapper", "num_classes": 0, "do_pooling": False, **vision},
        text_config=causal.config.to_dict(),
        vision_use_cls_token=model.model.vision.config.class_token,
        projector_pooling_ratio=projector.pool,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )
    ours = {"chat_template": prompts.template, "context": prompts.context, "tiles": model.media.tiles}
    setattr(config, OURS, {**ours, "vocabulary": vocabulary})
    with torch.device("meta"):
        whole = PerceptionLMForConditionalGeneration(config)
    whole.model.vision_tower = AutoModel.from_config(config.vision_config, trust_remote_code=False)
    state = from_published(published_state_dict(tower), tower.config, "timm")
    whole.model.vision_tower.timm_model.load_state_dict(state)
    adapter = whole.model.multi_modal_projector
    adapter.linear_1, adapter.linear_2 = projector.projector[0], projector.projector[2]
    if type(whole.model.language_model) is not type(causal.get_decoder()):
        raise ConfigError(f"transformers' PerceptionLM cannot hold {model.decoder.name}, a {type(causal).__name__}")
    whole.model.language_model, whole.lm_head = causal.get_decoder(), causal.get_output_embeddings()
    ends = sorted(model.decoder.end_tokens)
    whole.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends,
        pad_token_id=ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        suppress_tokens=[tokenizer.image_token_id, tokenizer.video_token_id],
        do_sample=False,
    )
    return whole.eval()


@torch.inference_mode()
def _logit_difference(model: LanguageModel, whole: Any) -> float:
    """Compare the logits of a prompt with two images: see `verify`."""
    generator = torch.Generator().manual_seed(0)
    side = model.media.image_size
    pixels = torch.rand(2, 3, side, side, generator=generator) * 2 - 1
    count = 2 * model.model.projector.tokens_of(model.model.vision.grid_of(side, side))
    ids = torch.randint(0, len(model.decoder.tokenizer), (1, count + 16), generator=generator)
    is_image = torch.zeros_like(ids, dtype=torch.bool)
    is_image[:, 8 : 8 + count] = True
    expected = model.model.logits(ids, is_image, pixels)
    marked = ids.masked_fill(is_image, whole.config.image_token_id)
    found = whole(input_ids=marked, pixel_values=pixels[None]).logits
    return verify("the model of transformers", found, expected)


def _write_processor(model: LanguageModel, tokenizer: Any, directory: Path) -> None:
    """Write the processor; ModelError unless it gives this package's prompt of an image and a question."""
    from transformers import (
        AutoProcessor,
        PerceptionLMImageProcessor,
        PerceptionLMProcessor,
        PerceptionLMVideoProcessor,
    )

    side, tiles = model.media.image_size, model.media.tiles
    size, projector = {"height": side, "width": side}, model.model.projector
    kind = "thumb+tile" if tiles > 1 else "vanilla"
    processor = PerceptionLMProcessor(
        PerceptionLMVideoProcessor(size=size),
        PerceptionLMImageProcessor(vision_input_type=kind, tile_size=side, max_num_tiles=max(1, tiles), size=size),
        tokenizer,
        patch_size=model.model.vision.config.patch_size,
        chat_template=_JOIN_PARTS + model.decoder.prompts.template,
        pooling_ratio=projector.pool,
    )
    processor.save_pretrained(directory)

    processor = AutoProcessor.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    image, question = Image.new("RGB", (3 * side, 2 * side)), " How many are there? "
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    found = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]
    count = len(media_pixels(image, model.media)) * projector.tokens_of(model.model.vision.grid_of(side, side))
    prompt = model.decoder.prompts.generation_prompt(ask(question, [image]), [count], 1, cut_text=False)
    marks = zip(prompt.ids, prompt.is_image, strict=True)
    if list(found) != [processor.image_token_id if is_image else token for token, is_image in marks]:
        raise ModelError(
            f"transformers makes another prompt than this package of the chat template of {model.decoder.name}: "
            f"{processor.tokenizer.decode(found)[:200]!r}"
        )


def _write_card(directory: Path, model: LanguageModel, whole: Any, half: bool) -> None:
    tiles, licence = model.media.tiles, "Apache-2.0"
    if model.decoder.name != SMOLLM2:
        licence += f" for the vision tower, and that of {Path(model.decoder.name).name} for the language model"
    state: dict[str, torch.Tensor] = nn.Module.state_dict(whole)
    shown = _TILED if tiles > 1 else "one square of {size} px."
    write_card(
        directory,
        title=f"{model.name} for transformers",
        library="transformers",
        about=_ABOUT + shown.format(size=model.media.image_size, tiles=tiles),
        weights=f"{state_hash(state)}, in {'float16' if half else 'float32'}",
        licence=licence,
        packages="transformers, timm, torchvision and Pillow",
        program=_PROGRAM,
        scores={},
    )
