"""Other implementations with the very weights of ours: timm's and open_clip's, filled through the layout tables."""

from __future__ import annotations

from dataclasses import replace

import open_clip
import timm
import torch
from torch import Tensor, nn

from perception_encoder.models.checkpoints.layouts import from_published, to_published
from perception_encoder.models.checkpoints.weights import build
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import MODELS, find_model
from perception_encoder.models.vision_transformer import VisionTransformer
from tests.golden_weights import fill, golden_image

OPEN_CLIP_MODELS = [name for name, entry in MODELS.items() if entry.open_clip]
TIMM_MODELS = [name for name, entry in MODELS.items() if entry.timm and entry.timm_tag == "fb"]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over norm of the reference."""
    assert ours.shape == theirs.shape
    return float(((ours - theirs).norm() / theirs.norm()).detach())


def timm_pair(
    name: str, depth: int | None = None, image_size: int | None = None
) -> tuple[VisionTransformer, nn.Module]:
    """Our vision tower and timm's with the same weights (in the same memory), by default at the model's own size."""
    entry = find_model(name)
    config = replace(entry.vision, depth=depth or entry.vision.depth, image_size=image_size or entry.vision.image_size)
    grid = config.image_size // config.patch_size
    sizes = {"img_size": config.image_size, "ref_feat_shape": (grid, grid)}  # timm scales RoPE at any other grid
    with torch.device("meta"):
        ours = VisionTransformer(config, name)
        theirs = timm.create_model(entry.timm, depth=config.depth, **sizes)
    theirs.load_state_dict(from_published(fill(ours), config, "timm"), assign=True)
    _fill_rope(theirs)
    return ours, theirs.requires_grad_().eval()


def open_clip_pair(name: str) -> tuple[CLIP, nn.Module]:
    """Our two-tower model and open_clip's, of the same weights (in the same memory)."""
    entry = find_model(name)
    ours = build(entry)
    with torch.device("meta"):
        theirs = open_clip.create_model(entry.open_clip, pretrained=None, device="meta")
    theirs.load_state_dict(from_published(fill(ours), entry.vision, "open_clip"), assign=True)
    _fill_rope(theirs.visual.trunk)
    theirs.text.attn_mask = theirs.text.build_causal_mask()
    return ours, theirs.requires_grad_().eval()


def _fill_rope(tower: nn.Module) -> None:
    """Compute the tables of timm's tower, which no checkpoint holds."""
    tower.rope.to_empty(device="cpu").init_non_persistent_buffers()


def native_image(name: str) -> Tensor:
    """One image of noise of the model's own size."""
    size = find_model(name).vision.image_size
    return golden_image(8, 1, 3, size, size)


def text_tokens(name: str) -> Tensor:
    """Three texts of different lengths as random token ids, the end-of-text token last."""
    length = find_model(name).text.context_length
    tokens = torch.randint(1, 49406, (3, length), generator=torch.Generator().manual_seed(5))
    tokens[:, 0] = 49406
    for row, end in zip(tokens, (3, length // 2, length - 1), strict=True):
        row[end], row[end + 1 :] = 49407, 0
    return tokens


def gradients(model: nn.Module, output: Tensor, seed: int = 9) -> dict[str, Tensor]:
    """Gradients of a fixed random projection of `output`, by parameter name."""
    model.zero_grad()
    (output * golden_image(seed, *output.shape)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gradient_error(
    ours: VisionTransformer | CLIP, our_output: Tensor, theirs: nn.Module, their_output: Tensor
) -> float:
    """Largest relative error over the parameters' gradients; theirs come back through the layout table."""
    config = ours.visual.config if isinstance(ours, CLIP) else ours.config
    reference = gradients(theirs, their_output)
    for name, gradient in reference.items():
        if name.endswith("head.bias"):  # a bias that PE has not; the table insists on zeros
            reference[name] = torch.zeros_like(gradient)
    reference = to_published(reference, config)
    mine = {name.removeprefix("text."): g for name, g in gradients(ours, our_output).items()}
    assert mine.keys() == reference.keys()
    return max(relative_error(mine[name], reference[name]) for name in mine)


def timm_errors(name: str, depth: int | None = None, with_gradients: bool = True) -> dict[str, float]:
    """Relative errors against timm at the native size: of the tokens, the embedding, and the gradients of both."""
    ours, theirs = timm_pair(name, depth)
    x = native_image(name)
    errors = {}
    with torch.set_grad_enabled(with_gradients):
        mine, reference = ours.forward_features(x), theirs.forward_features(x)
        errors["tokens"] = relative_error(mine, reference)
        if ours.attn_pool is not None:
            mine, reference = ours.pool(mine), theirs.forward_head(reference)
            errors["embedding"] = relative_error(mine, reference)
        if with_gradients:
            errors["gradients"] = gradient_error(ours, mine, theirs, reference)
    return errors


def open_clip_errors(name: str, with_gradients: bool = True) -> dict[str, float]:
    """Relative errors against open_clip at the native size: of both embeddings and of their gradients."""
    ours, theirs = open_clip_pair(name)
    x, tokens = native_image(name), text_tokens(name)
    errors = {}
    for kind, inputs in (("image", x), ("text", tokens)):
        with torch.set_grad_enabled(with_gradients):
            mine, reference = (getattr(model, f"encode_{kind}")(inputs) for model in (ours, theirs))
            errors[kind] = relative_error(mine, reference)
            if with_gradients:
                errors[f"{kind} gradients"] = gradient_error(ours, mine, theirs, reference)
    return errors
