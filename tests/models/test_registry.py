"""Names: one canonical name a model, and every name that people know it by."""

from __future__ import annotations

from typing import get_args

import pytest
import timm

from perception_encoder.errors import UnknownModelError
from perception_encoder.models.registry import MODELS, CoreName, TowerName, canonical_name, find_model


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


def test_no_name_means_two_models() -> None:
    seen: dict[str, str] = {}
    for name, entry in MODELS.items():
        for known in (name, *entry.aliases):
            assert seen.setdefault(known.lower(), name) == name


@pytest.mark.parametrize(
    ("name", "near"),
    [("PE-Core-L14-363", "PE-Core-L14-336"), ("pe-lang-l14", "PE-Lang-L14-448"), ("bultin", "builtin")],
)
def test_an_unknown_name_shows_near_matches(name: str, near: str) -> None:
    with pytest.raises(UnknownModelError, match=f"no model is called '{name}'; did you mean .*{near}"):
        find_model(name)


def test_hub_ids() -> None:
    for name in (name for name, entry in MODELS.items() if entry.builtin is None):
        for alias in (f"facebook/{name}", f"hf-hub:facebook/{name}", name.lower()):
            assert canonical_name(alias) == name
