"""The models that are not encoders of the registry, language models and heads; and which models are built-in demos."""

from __future__ import annotations

from dataclasses import dataclass

from perception_encoder.models.registry import ModelEntry, canonical_name, find_model, unknown_name

BUILTIN_LANG = "builtin-lang"
"""The built-in encoder with SmolLM2-135M, aligned by this project; what was trained is in the package."""
BUILTIN_DEPTH, BUILTIN_DETECTOR = "builtin-depth", "builtin-detector"
"""Heads of the built-in Spatial model, trained by this project and shipped inside the package."""
SMALL_CORE, SMALL_SPATIAL, SMALL_LANG = "PE-Core-S16-384", "PE-Spatial-S16-512", "facebook/Perception-LM-1B"
"""The published models that are suggested first: small ones, good enough to see what a published model does."""
DETECTORS = "facebook/PE-Detection"
"""The hub's repository of published detectors, of which a user downloads one."""


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A language model or a head."""

    name: str
    purpose: str
    licence: str
    download_bytes: int | None
    """0 for what comes with the package; None if it is unknown. Of Perception-LM counted from its parameters."""


_NONCOMMERCIAL = "noncommercial"
OTHER_MODELS: dict[str, ListedModel] = {
    model.name: model
    for model in (
        ListedModel(
            name="facebook/Perception-LM-8B",
            purpose="ask, caption",
            licence=_NONCOMMERCIAL,
            download_bytes=19_700_000_000,
        ),
        ListedModel(
            name="facebook/Perception-LM-3B",
            purpose="ask, caption",
            licence=_NONCOMMERCIAL,
            download_bytes=7_100_000_000,
        ),
        ListedModel(name=SMALL_LANG, purpose="ask, caption", licence=_NONCOMMERCIAL, download_bytes=3_100_000_000),
        ListedModel(name=DETECTORS, purpose="detect", licence="Apache-2.0", download_bytes=None),
        ListedModel(name=BUILTIN_LANG, purpose="demo: ask, caption", licence="Apache-2.0", download_bytes=0),
        ListedModel(name=BUILTIN_DEPTH, purpose="demo: depth", licence="Apache-2.0", download_bytes=0),
        ListedModel(name=BUILTIN_DETECTOR, purpose="demo: detect", licence="Apache-2.0", download_bytes=0),
    )
}
"""Language models and heads by name, published ones first."""


def find_listed(name: str) -> ModelEntry | ListedModel:
    """Return what is known of an encoder, a language model or a head; UnknownModelError shows near matches."""
    if name not in OTHER_MODELS and canonical_name(name) is None:
        raise unknown_name(name, OTHER_MODELS)
    return OTHER_MODELS.get(name) or find_model(name)


def demo_note(name: str) -> str:
    """Return a line that calls a built-in model a demo, and says how to choose a published one; "" for other models.

    `name`: that of a loaded model (`Encoder.name`, `LanguageModel.name`), or of a head.
    """
    if name not in _REMEDIES:
        return ""
    return f"{name} is a small demo model, and its results are often wrong; {_REMEDIES[name]}"


def _size(name: str) -> str:
    listed = OTHER_MODELS.get(name)
    size = find_model(name).download_bytes if listed is None else listed.download_bytes or 0
    return f"{size / 1e9:.1f} GB"


def choose_command(name: str) -> str:
    """Return the command that makes a published model the default, with the size of its download."""
    return f"pe models use {name} ({_size(name)})"


_REMEDIES: dict[str, str] = {
    "builtin": f"choose a published model: {choose_command(SMALL_CORE)}",
    "builtin-spatial": f"choose a published model: {choose_command(SMALL_SPATIAL)}",
    BUILTIN_LANG: f"choose a published model: {choose_command(SMALL_LANG)}",
    BUILTIN_DEPTH: "no depth head is published: train one on your own data with pe train depth",
    BUILTIN_DETECTOR: "choose a published detector: download a file of huggingface.co/facebook/PE-Detection, "
    "then pe models use FILE",
}
