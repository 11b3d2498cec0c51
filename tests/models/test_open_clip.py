"""open_clip's `PE-Core-*` as an oracle: the same random weights, both towers, values and gradients."""

from __future__ import annotations

import open_clip
import pytest
import torch

from perception_encoder.models.checkpoints.layouts import from_published, to_published
from perception_encoder.models.checkpoints.weights import build, from_state_dict, published_state_dict
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import MODELS, canonical_name, find_model
from tests.models.oracles import OPEN_CLIP_MODELS, native_image, open_clip_errors, relative_error, text_tokens

TOLERANCE = 1e-5


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.large] * ("-G" in name or "-L" in name)) for name in OPEN_CLIP_MODELS],
)
def test_values_and_gradients(name: str) -> None:
    errors = open_clip_errors(name)
    assert set(errors) == {"image", "image gradients", "text", "text gradients"}
    assert max(errors.values()) < TOLERANCE


def test_registered_sizes_and_names_are_open_clips() -> None:
    for name in OPEN_CLIP_MODELS:
        entry = find_model(name)
        config = open_clip.get_model_config(entry.open_clip)
        assert config["embed_dim"] == entry.vision.output_dim == entry.text.output_dim
        assert config["vision_cfg"]["image_size"] == entry.vision.image_size
        assert config["vision_cfg"]["timm_model_name"] == entry.timm
        text = entry.text
        theirs = {key: config["text_cfg"][key] for key in ("context_length", "vocab_size", "width", "heads", "layers")}
        assert list(theirs.values()) == [text.context_length, text.vocabulary, text.width, text.heads, text.depth]


def test_every_published_open_clip_name_is_an_alias() -> None:
    names = {name for name, _ in open_clip.list_pretrained() if name.startswith("PE-")}
    assert {entry.open_clip for entry in MODELS.values() if entry.open_clip} == names
    for name in names:
        hub = open_clip.get_pretrained_cfg(name, "meta")["hf_hub"].rstrip("/")
        assert canonical_name(name) == canonical_name(hub) == canonical_name(f"hf-hub:{hub}") is not None


def test_table_leads_there_and_back() -> None:
    """Names and shapes of a complete model, on the meta device."""
    for name in OPEN_CLIP_MODELS:
        entry = find_model(name)
        published = published_state_dict(build(entry))
        with torch.device("meta"):
            theirs = open_clip.create_model(entry.open_clip, pretrained=None, device="meta").state_dict()
        there = from_published(published, entry.vision, "open_clip")
        assert {n: t.shape for n, t in there.items()} == {n: t.shape for n, t in theirs.items()}


def test_weights_that_open_clip_drew_load_here_and_come_back_identical() -> None:
    theirs = open_clip.create_model("PE-Core-T-16-384", pretrained=None).eval()
    ours = from_state_dict("PE-Core-T-16-384", theirs.state_dict())
    assert isinstance(ours, CLIP)
    x, tokens = native_image(ours.name), text_tokens(ours.name)
    with torch.no_grad():
        assert relative_error(ours.encode_image(x), theirs.encode_image(x)) < TOLERANCE
        assert relative_error(ours.encode_text(tokens), theirs.encode_text(tokens)) < TOLERANCE
        unit = zip(ours(image=x, text=tokens), theirs(image=x, text=tokens), strict=True)
        assert max(relative_error(a, b) for a, b in unit) < TOLERANCE
    assert ours.context_length == theirs.context_length
    back = from_published(published_state_dict(ours), ours.visual.config, "open_clip")
    expected = theirs.state_dict()
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[n], expected[n]) for n in back)
    again = to_published(back, ours.visual.config)
    assert all(torch.equal(again[n], tensor) for n, tensor in published_state_dict(ours).items())
