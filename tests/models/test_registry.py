"""Names: one canonical name a model, and every name that people know it by."""

from __future__ import annotations

from typing import get_args

import pytest
import timm

from perception_encoder.errors import UnknownModelError
from perception_encoder.models.registry import (
    BUILTIN,
    BUILTIN_SPATIAL,
    MODELS,
    CoreName,
    TowerName,
    canonical_name,
    find_model,
    list_models,
)

PAPER = [
    "PE-Core-G14-448",
    "PE-Core-L14-336",
    "PE-Core-B16-224",
    "PE-Core-S16-384",
    "PE-Core-T16-384",
    "PE-Lang-G14-448",
    "PE-Lang-G14-448-Tiling",
    "PE-Lang-L14-448",
    "PE-Lang-L14-448-Tiling",
    "PE-Spatial-G14-448",
    "PE-Spatial-L14-448",
    "PE-Spatial-B16-512",
    "PE-Spatial-S16-512",
    "PE-Spatial-T16-512",
]


def test_the_papers_names_and_ours() -> None:
    assert list_models() == [*PAPER, BUILTIN, BUILTIN_SPATIAL]
    assert sum(entry.text is not None for name, entry in MODELS.items() if name != BUILTIN) == 5


def test_type_checkers_know_every_canonical_name() -> None:
    assert set(get_args(CoreName)) == {"builtin", *(name for name, entry in MODELS.items() if entry.text)}
    assert set(get_args(TowerName)) == {"builtin-spatial", *(name for name, entry in MODELS.items() if not entry.text)}


def test_timms_published_names_are_the_aliases() -> None:
    published = set(timm.list_models("vit_pe*", pretrained=True))
    ours = {f"{entry.timm}.{entry.timm_tag}": name for name, entry in MODELS.items() if entry.timm}
    assert set(ours) == published
    for theirs, name in ours.items():
        hub = timm.get_pretrained_cfg(theirs).hf_hub_id
        for alias in (theirs, f"timm/{theirs}", f"hf_hub:timm/{theirs}", f"hf-hub:timm/{theirs}"):
            assert canonical_name(alias) == name
        assert hub is None or not hub.startswith("facebook/") or canonical_name(hub) == name


def test_timms_names_without_a_tag_mean_its_default() -> None:
    for theirs in timm.list_models("vit_pe*"):
        default = timm.get_pretrained_cfg(theirs).tag
        assert canonical_name(theirs) == canonical_name(f"{theirs}.{default}") is not None


def test_no_name_means_two_models() -> None:
    seen: dict[str, str] = {}
    for name, entry in MODELS.items():
        for known in (name, *entry.aliases):
            assert seen.setdefault(known.lower(), name) == name


PUBLISHED = {
    # image, patch, width, depth, heads, MLP, class token, output; text: context, width, depth, heads
    "PE-Core-G14-448": ((448, 14, 1536, 50, 16, 8960, False, 1280), (72, 1280, 24, 20)),
    "PE-Core-L14-336": ((336, 14, 1024, 24, 16, 4096, True, 1024), (32, 1024, 24, 16)),
    "PE-Core-B16-224": ((224, 16, 768, 12, 12, 3072, True, 1024), (32, 1024, 24, 16)),
    "PE-Core-S16-384": ((384, 16, 384, 12, 6, 1536, True, 512), (32, 512, 12, 8)),
    "PE-Core-T16-384": ((384, 16, 192, 12, 3, 768, True, 512), (32, 512, 12, 8)),
    "PE-Lang-G14-448": ((448, 14, 1536, 47, 16, 8960, False, None), None),
    "PE-Lang-L14-448": ((448, 14, 1024, 23, 16, 4096, True, None), None),
    "PE-Spatial-G14-448": ((448, 14, 1536, 50, 16, 8960, False, None), None),
    "PE-Spatial-L14-448": ((448, 14, 1024, 24, 16, 4096, True, None), None),
    "PE-Spatial-B16-512": ((512, 16, 768, 12, 12, 3072, True, None), None),
    "PE-Spatial-S16-512": ((512, 16, 384, 12, 6, 1536, True, None), None),
    "PE-Spatial-T16-512": ((512, 16, 192, 12, 3, 768, True, None), None),
}
"""The paper's appendix B.1, and the released small and spatial models."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_published_sizes(name: str) -> None:
    entry, (sizes, text) = MODELS[name], PUBLISHED[name]
    vision = entry.vision
    shape = (vision.image_size, vision.patch_size, vision.width, vision.depth, vision.heads, vision.mlp_width)
    assert (*shape, vision.class_token, vision.output_dim) == sizes
    assert vision.attention_pool == vision.final_norm == (text is not None)
    scaled = name.startswith("PE-Lang") or name == "PE-Spatial-G14-448"
    assert vision.layer_scale == (0.1 if scaled else None)
    if text is None:
        assert entry.text is None
    else:
        assert entry.text is not None
        assert (entry.text.context_length, entry.text.width, entry.text.depth, entry.text.heads) == text


@pytest.mark.parametrize(
    ("name", "near"),
    [("PE-Core-L14-363", "PE-Core-L14-336"), ("pe-lang-l14", "PE-Lang-L14-448"), ("bultin", "builtin")],
)
def test_an_unknown_name_shows_near_matches(name: str, near: str) -> None:
    with pytest.raises(UnknownModelError, match=f"no model is called '{name}'; did you mean .*{near}"):
        find_model(name)


@pytest.mark.parametrize("name", PAPER)
def test_hub_ids(name: str) -> None:
    for alias in (f"facebook/{name}", f"hf-hub:facebook/{name}", name.lower()):
        assert canonical_name(alias) == name
