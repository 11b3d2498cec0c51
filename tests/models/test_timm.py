"""timm's `vit_pe_*` as an oracle: the same random weights, values and gradients, at native sizes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import timm
import torch
from PIL import Image
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from perception_encoder import image_transform
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoints.layouts import _timm_rows, from_published
from perception_encoder.models.checkpoints.weights import published_state_dict
from perception_encoder.models.registry import find_model
from perception_encoder.models.vision_transformer import VisionTransformer
from tests.golden_weights import golden_image
from tests.models.oracles import TIMM_MODELS, native_image, relative_error, timm_errors, timm_pair

VALUES, GRADIENTS = 1e-5, 1e-5
BLOCKS = {"G14": 1, "L14": 1, "B16": 2, "S16": 2, "T16": 4}


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_values_and_gradients(name: str) -> None:
    """Large models with fewer of their blocks; `benchmarks/parity.py` runs them whole."""
    errors = timm_errors(name, BLOCKS[name.split("-")[2]])
    assert errors.pop("gradients") < GRADIENTS
    assert max(errors.values()) < VALUES


def test_table_leads_there_and_back() -> None:
    """Names and shapes of complete models, on the meta device."""
    for name in TIMM_MODELS:
        entry = find_model(name)
        with torch.device("meta"):
            ours, theirs = VisionTransformer(entry.vision, name), timm.create_model(entry.timm)
        there = from_published(published_state_dict(ours), entry.vision, "timm")
        assert {n: t.shape for n, t in there.items()} == {n: t.shape for n, t in theirs.state_dict().items()}
        for attribute in ("embed_dim", "num_features", "num_prefix_tokens"):
            assert getattr(ours, attribute) == getattr(theirs, attribute)
        assert len(ours.blocks) == len(theirs.blocks) and ours.feature_info == theirs.feature_info


@pytest.fixture(scope="module")
def shallow() -> tuple[VisionTransformer, nn.Module, Tensor]:
    """A pair of five blocks at 64 pixels, for hundreds of combinations of options."""
    return *timm_pair("PE-Core-T16-384", depth=5, image_size=64), golden_image(8, 1, 3, 64, 64)


INDICES = [None, 3, [-1], [3, 1], [2, 2, -3], (0, 1)]


def flatten(result: object) -> list[Tensor]:
    """All tensors of a nested result, in order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in flatten(part)]


@torch.no_grad()
@pytest.mark.parametrize("indices", INDICES, ids=str)
def test_forward_intermediates(shallow: tuple[VisionTransformer, nn.Module, Tensor], indices: object) -> None:
    """Structure and values, for all combinations of the other options."""
    ours, theirs, x = shallow
    for norm, stop, layout, prefix, only in product([0, 1], [0, 1], ["NCHW", "NLC"], [0, 1], [0, 1]):
        options = {
            "indices": indices,
            "norm": bool(norm),
            "stop_early": bool(stop),
            "output_fmt": layout,
            "return_prefix_tokens": bool(prefix),
            "intermediates_only": bool(only),
        }
        mine, reference = ours.forward_intermediates(x, **options), theirs.forward_intermediates(x, **options)
        assert type(mine) is type(reference)
        assert len(mine) == len(reference)
        for a, b in zip(flatten(mine), flatten(reference), strict=True):
            assert relative_error(a, b) < VALUES
            assert a.is_contiguous() == b.is_contiguous()


@torch.no_grad()
@pytest.mark.parametrize("pre_logits", [False, True])
def test_forward_head(pre_logits: bool) -> None:
    name = "PE-Core-T16-384"
    ours, theirs = timm_pair(name, depth=1)
    x = native_image(name)
    tokens = ours.forward_features(x)
    mine, reference = ours.forward_head(tokens, pre_logits), theirs.forward_head(tokens, pre_logits)
    assert relative_error(mine, reference) < VALUES
    assert pre_logits or torch.equal(mine, ours(x))


@torch.no_grad()
def test_set_input_size_changes_the_grid_and_not_what_is_computed_at_it() -> None:
    ours, theirs = timm_pair("PE-Core-T16-384", depth=1)
    x = torch.nn.functional.interpolate(native_image("PE-Core-T16-384"), 256)
    expected = ours(x)
    for tower in (ours, theirs):
        tower.set_input_size(256)
    assert ours.positional_embedding.shape == theirs.pos_embed[0].shape
    assert torch.equal(ours(x), expected)
    ours.set_input_size((384, 384), patch_size=16)
    assert ours.config.image_size == 384
    for arguments, message in (((256, 384),), "only a square"), ((384, 14), "cannot change from 16"):
        with pytest.raises(ConfigError, match=message):
            ours.set_input_size(*arguments)


@torch.no_grad()
@pytest.mark.parametrize("indices", [6, [-6]], ids=str)
def test_layers_that_do_not_exist_are_refused_where_timm_refuses_them(
    shallow: tuple[VisionTransformer, nn.Module, Tensor], indices: object
) -> None:
    ours, theirs, x = shallow
    with pytest.raises(AssertionError):
        theirs.forward_intermediates(x, indices)
    with pytest.raises(ConfigError, match=r"PE-Core-T16-384 has (5|layers 0 to 4)"):
        ours.forward_intermediates(x, indices)


@torch.no_grad()
@pytest.mark.parametrize("name", ["PE-Spatial-T16-512", "PE-Lang-G14-448"])
def test_forward_intermediates_without_final_norm_or_class_token(name: str) -> None:
    size = 4 * find_model(name).vision.patch_size
    ours, theirs = timm_pair(name, depth=2 if "T16" in name else 1, image_size=size)
    x = golden_image(8, 1, 3, size, size)
    for norm in (False, True):
        mine, reference = (model.forward_intermediates(x, [-1], norm=norm) for model in (ours, theirs))
        assert relative_error(mine[0], reference[0]) < VALUES
        assert relative_error(mine[1][0], reference[1][0]) < VALUES


@pytest.mark.parametrize("name", ["PE-Core-T16-384", "PE-Lang-L14-448"])
def test_the_data_config_is_the_published_preprocessing(name: str) -> None:
    """timm's own entries crop and scale bicubically; sizes, mean and deviation are the same."""
    entry = find_model(name)
    with torch.device("meta"):
        ours, theirs = VisionTransformer(entry.vision, name), timm.create_model(entry.timm, depth=1)
    mine, reference = (timm.data.resolve_model_data_config(model) for model in (ours, theirs))
    assert mine | {"interpolation": "bicubic", "crop_mode": "center"} == reference
    assert ours.num_classes == theirs.num_classes
    image = Image.effect_noise((300, 200), 90).convert("RGB")
    expected = image_transform(ours)(image)
    torch.testing.assert_close(timm.data.create_transform(**mine)(image), expected, atol=0.02, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("PE-Core-T16-384", None),
        ("PE-Core-T16-384", "avg"),
        ("PE-Core-T16-384", "map"),
        ("PE-Spatial-T16-512", "token"),
    ],
)
def test_a_new_classifier_gives_timms_logits(name: str, pool: str | None) -> None:
    ours, theirs = timm_pair(name, depth=1)
    x = torch.nn.functional.interpolate(native_image(name), ours.config.image_size)
    for model in (ours, theirs):
        model.reset_classifier(7, pool)
        assert model.num_classes == 7 and model.get_classifier().out_features == 7
    theirs.head.load_state_dict(ours.head.state_dict())
    assert relative_error(ours(x), theirs(x)) < VALUES
    tokens = ours.forward_features(x)
    assert relative_error(ours.forward_head(tokens, True), theirs.forward_head(tokens, True)) < VALUES
    with pytest.raises(CheckpointError, match="has a new classifier"):
        published_state_dict(ours)
    for model in (ours, theirs):
        model.reset_classifier(0)
    assert ours.num_classes == theirs.num_classes == 0
    if ours.attn_pool is not None:
        assert relative_error(ours(x), theirs(x)) < VALUES
    else:
        assert torch.equal(ours(x), tokens)  # as towers without pooling do; timm pools


@pytest.mark.parametrize("name", ["PE-Core-T16-384", "PE-Lang-L14-448"])
def test_parameter_groups_are_timms(name: str) -> None:
    """timm's factory makes groups of both; each parameter has the same weight decay and the same rate."""
    entry = find_model(name)
    config = replace(entry.vision, depth=3)
    with torch.device("meta"):
        ours, theirs = VisionTransformer(config, name), timm.create_model(entry.timm, depth=3)

    def settings(model: nn.Module) -> dict[str, tuple[float, float]]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.7, verbose=False)
        return {names[id(p)]: (group["weight_decay"], group["lr_scale"]) for group in groups for p in group["params"]}

    mine, reference = settings(ours), settings(theirs)
    assert len({scale for _, scale in mine.values()}) == (5 if entry.vision.pools else 4)
    row_of = {row.published: row.other for row in _timm_rows(config)}
    assert mine.keys() == row_of.keys()
    for name, value in mine.items():
        there = [reference[other] for other in row_of[name] if not (name == "proj" and other == "head.bias")]
        assert there == [value] * len(there), name
