"""All models in literal tables: encoders with their configuration, names, licence and scores; other models; demos.

A model has one canonical name (the paper's) and any number of aliases: timm's and open_clip's names, hub ids.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from perception_encoder.errors import ConfigError, UnknownModelError
from perception_encoder.models.config import TextConfig, VisionConfig

CoreName = Literal[
    "builtin",
    "PE-Core-G14-448",
    "PE-Core-L14-336",
    "PE-Core-B16-224",
    "PE-Core-S16-384",
    "PE-Core-T16-384",
    "PE-Core-N16-128",
]
"""Models with two towers, for type checkers."""

TowerName = Literal[
    "builtin-spatial",
    "PE-Lang-G14-448",
    "PE-Lang-G14-448-Tiling",
    "PE-Lang-L14-448",
    "PE-Lang-L14-448-Tiling",
    "PE-Spatial-G14-448",
    "PE-Spatial-L14-448",
    "PE-Spatial-B16-512",
    "PE-Spatial-S16-512",
    "PE-Spatial-T16-512",
    "PE-Spatial-N16-224",
]
"""Models with a vision tower only, for type checkers."""

RANDOM = "random:"
"""Prefix of a model's name that requests the architecture with random weights."""
IMMICH_NAMES = {512: "ViT-B-32__openai", 1024: "ViT-L-16-SigLIP2-384__webli"}
"""A name of immich's list by the length of its vectors: it accepts no other names."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """An encoder in the table."""

    name: str
    """Canonical name, printed and stored."""
    vision: VisionConfig
    text: TextConfig | None = None
    timm: str | None = None
    """timm's name without its tag; None if timm lacks the model."""
    builtin: str | None = None
    """Alias of a model trained by this project, and the name of its file inside the package."""
    timm_tag: str = "fb"
    open_clip: str | None = None
    published: dict[str, float] = field(default_factory=dict)
    """Published results, in percent, by the names of `SCORES`."""
    licence: str = "Apache-2.0"

    @property
    def purpose(self) -> str:
        """Its use, in a few words."""
        if self.text is not None:
            return "demo: search" if self.builtin else "search, classify"
        if "-Lang-" in self.name:
            return "language models"
        return "demo: track, segment" if self.builtin else "track, segment"

    @property
    def shown(self) -> str:
        """Its name in results: the canonical one, or "builtin" for a demo, which must not look published."""
        return self.builtin or self.name

    @property
    def repository(self) -> str:
        """Hub repository of the published weights."""
        return f"facebook/{self.name}"

    @property
    def download_bytes(self) -> int:
        """Size of the published file, in float32, computed from the configuration; 0 for built-in models."""
        text = 0 if self.text is None else self.text.parameters + 1  # the logit scale
        return 4 * (self.vision.parameters + text) if self.builtin is None else 0

    @property
    def aliases(self) -> tuple[str, ...]:
        """The model's other names."""
        if self.timm is None:
            return () if self.builtin is None else (self.builtin,)
        names = [self.repository, f"{self.timm}.{self.timm_tag}", f"timm/{self.timm}.{self.timm_tag}"]
        if self.timm_tag == "fb":
            names.append(self.timm)
        if self.open_clip is not None:
            names += [self.open_clip, f"timm/{self.open_clip}"]
        return tuple(names)


def _vit(size: int, patch: int, width: int, depth: int, heads: int, mlp: int, **rest: Any) -> VisionConfig:
    return VisionConfig(image_size=size, patch_size=patch, width=width, depth=depth, heads=heads, mlp_width=mlp, **rest)


def _text(context: int, width: int, depth: int, heads: int, output: int) -> TextConfig:
    return TextConfig(context_length=context, width=width, depth=depth, heads=heads, output_dim=output)


_WITH_LLAMA = "with Llama 3.1 8B, encoder frozen, no tiles"
SCORES: dict[str, str] = {
    "imagenet": "ImageNet-1k, zero-shot top-1",
    "imagenetv2": "ImageNet-V2, zero-shot top-1",
    "imagenet-a": "ImageNet-A, zero-shot top-1",
    "objectnet": "ObjectNet, zero-shot top-1",
    "robustness": "ImageNet-1k, -V2, -A, -R, -Sketch and ObjectNet, mean zero-shot top-1",
    "kinetics400": "Kinetics-400, zero-shot top-1",
    "coco": "COCO, text to image R@1",
    "msrvtt": "MSR-VTT, text to video R@1",
    "davis2017": "DAVIS 2017, J&F",
    "ade20k": "ADE20K, linear probe (G: of layer 48, counted from 0), mIoU",
    "docvqa": f"DocVQA val, {_WITH_LLAMA}",
    "infovqa": f"InfographicVQA val, {_WITH_LLAMA}",
    "textvqa": f"TextVQA, {_WITH_LLAMA}",
    "mvbench": f"MVBench, {_WITH_LLAMA}",
    "perceptiontest": f"PerceptionTest val, {_WITH_LLAMA}",
    "egoschema": f"EgoSchema val, {_WITH_LLAMA}",
}
"""The meaning of a published result, by the name of its dataset.

Retrieval is very probably with dual softmax: the reference's first release cannot turn it off.
"""


_ZERO_SHOT = ("imagenet", "imagenetv2", "imagenet-a", "objectnet", "kinetics400", "coco", "msrvtt")
_QUESTIONS = ("docvqa", "infovqa", "textvqa", "mvbench", "perceptiontest", "egoschema")
_DENSE = ("davis2017", "ade20k")


def _scores(names: Sequence[str], *values: float) -> dict[str, float]:
    return dict(zip(names, values, strict=True))


_SIZES = {"T": "tiny", "S": "small", "B": "base", "L": "large", "G": "gigantic"}


def _tower(name: str, vision: VisionConfig, scored: Sequence[str] = (), *values: float) -> ModelEntry:
    _, kind, size, *_ = name.split("-")
    timm = f"vit_pe_{kind.lower()}_{_SIZES[size[0]]}_patch{vision.patch_size}_{vision.image_size}"
    tag = "fb_tiling" if name.endswith("-Tiling") else "fb"
    return ModelEntry(name=name, vision=vision, timm=timm, timm_tag=tag, published=_scores(scored, *values))


_TOKENS = {"attention_pool": False, "final_norm": False}  # Lang and Spatial return tokens

_LANG_G = _vit(448, 14, 1536, 47, 16, 8960, class_token=False, layer_scale=0.1, **_TOKENS)
_LANG_L = _vit(448, 14, 1024, 23, 16, 4096, layer_scale=0.1, **_TOKENS)
_SPATIAL_G = _vit(448, 14, 1536, 50, 16, 8960, class_token=False, layer_scale=0.1, **_TOKENS)

BUILTIN, BUILTIN_SPATIAL = "PE-Core-N16-128", "PE-Spatial-N16-224"
"""Small models trained by this project and shipped inside the package."""

_ENTRIES = (
    ModelEntry(
        name="PE-Core-G14-448",
        vision=_vit(448, 14, 1536, 50, 16, 8960, class_token=False, output_dim=1280),
        text=_text(72, 1280, 24, 20, 1280),
        timm="vit_pe_core_gigantic_patch14_448",
        open_clip="PE-Core-bigG-14-448",
        published=_scores((*_ZERO_SHOT, "robustness"), 85.4, 80.2, 92.6, 88.2, 76.9, 58.1, 51.2, 86.6),
    ),
    ModelEntry(
        name="PE-Core-L14-336",
        vision=_vit(336, 14, 1024, 24, 16, 4096, output_dim=1024),
        text=_text(32, 1024, 24, 16, 1024),
        timm="vit_pe_core_large_patch14_336",
        open_clip="PE-Core-L-14-336",
        published=_scores((*_ZERO_SHOT, "robustness"), 83.5, 77.9, 89.0, 84.7, 73.4, 57.1, 50.3, 83.9),
    ),
    ModelEntry(
        name="PE-Core-B16-224",
        vision=_vit(224, 16, 768, 12, 12, 3072, output_dim=1024),
        text=_text(32, 1024, 24, 16, 1024),
        timm="vit_pe_core_base_patch16_224",
        open_clip="PE-Core-B-16",
        published=_scores((*_ZERO_SHOT, "robustness"), 78.4, 71.7, 62.4, 71.9, 65.6, 50.9, 47.6, 73.2),
    ),
    ModelEntry(
        name="PE-Core-S16-384",
        vision=_vit(384, 16, 384, 12, 6, 1536, output_dim=512),
        text=_text(32, 512, 12, 8, 512),
        timm="vit_pe_core_small_patch16_384",
        open_clip="PE-Core-S-16-384",
        published=_scores(_ZERO_SHOT, 72.7, 65.0, 49.5, 60.0, 55.0, 42.6, 39.3),
    ),
    ModelEntry(
        name="PE-Core-T16-384",
        vision=_vit(384, 16, 192, 12, 3, 768, output_dim=512),
        text=_text(32, 512, 12, 8, 512),
        timm="vit_pe_core_tiny_patch16_384",
        open_clip="PE-Core-T-16-384",
        published=_scores(_ZERO_SHOT, 62.1, 54.7, 21.1, 43.9, 41.5, 33.0, 28.8),
    ),
    _tower("PE-Lang-G14-448", _LANG_G, _QUESTIONS, 84.4, 48.3, 75.2, 52.4, 56.0, 62.0),
    _tower("PE-Lang-G14-448-Tiling", _LANG_G),
    _tower("PE-Lang-L14-448", _LANG_L, _QUESTIONS, 81.9, 46.4, 73.0, 52.3, 54.7, 59.8),
    _tower("PE-Lang-L14-448-Tiling", _LANG_L),
    _tower("PE-Spatial-G14-448", _SPATIAL_G, _DENSE, 61.5, 49.3),
    _tower("PE-Spatial-L14-448", _vit(448, 14, 1024, 24, 16, 4096, **_TOKENS), _DENSE, 60.6, 48.1),
    _tower("PE-Spatial-B16-512", _vit(512, 16, 768, 12, 12, 3072, **_TOKENS), _DENSE, 58.9, 44.4),
    _tower("PE-Spatial-S16-512", _vit(512, 16, 384, 12, 6, 1536, **_TOKENS), _DENSE, 57.5, 37.5),
    _tower("PE-Spatial-T16-512", _vit(512, 16, 192, 12, 3, 768, **_TOKENS), _DENSE, 55.0, 27.6),
    ModelEntry(
        name=BUILTIN,
        vision=_vit(128, 16, 192, 12, 3, 768, output_dim=256),
        text=_text(32, 256, 6, 4, 256),
        builtin="builtin",
    ),
    ModelEntry(
        name=BUILTIN_SPATIAL,
        vision=_vit(224, 16, 192, 12, 3, 768, layer_scale=0.1, **_TOKENS),
        builtin="builtin-spatial",
    ),
)

MODELS: dict[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}

_NAMES: dict[str, str] = {
    alias.lower(): entry.name for entry in MODELS.values() for alias in (entry.name, *entry.aliases)
}


LIBRARIES = ("timm", "open_clip", "hf", "st")
"""Prefixes of the names of other libraries' models."""
_OF_LIBRARY = re.compile(rf"((?:random:)?(?:{'|'.join(LIBRARIES)}):(?:local-dir:|(?<=open_clip:)[^,:]+,)?)(.+)")


def list_models() -> list[str]:
    """List the canonical names of all encoders, largest first in each family.

    Examples:
        >>> pe.list_models()[0]
        'PE-Core-G14-448'
    """
    return list(MODELS)


def canonical_name(name: str) -> str | None:
    """Return the canonical name of an alias, ignoring case and a leading `hf-hub:`; None if it is unknown."""
    return _NAMES.get(name.lower().removeprefix("hf-hub:").removeprefix("hf_hub:"))


def immich_name(model: str, dimension: int) -> str:
    """Return the name under which immich asks for a model of images and texts; ConfigError if no name has its size."""
    if dimension not in IMMICH_NAMES:
        raise ConfigError(
            f"{model} has vectors of {dimension} numbers; immich has names for models with "
            f"{' and '.join(map(str, IMMICH_NAMES))}, such as PE-Core-S16-384 and PE-Core-L14-336"
        )
    return IMMICH_NAMES[dimension]


def shown_name(name: str) -> str | None:
    """Return `ModelEntry.shown` of a name; None if it is not a name but, for example, a path."""
    canonical = canonical_name(name)
    return None if canonical is None else MODELS[canonical].shown


def same_name(one: str, other: str) -> bool:
    """Return whether two names mean the same architecture."""
    return (canonical_name(one) or one) == (canonical_name(other) or other)


def portable_name(model: str) -> str:
    """Return a model's name, or its path made absolute, so that it means the same in any directory."""
    before, path = split_library(model)
    if before.endswith(","):
        found = Path(path).is_file()  # and not the name of weights beside a directory of that name
    else:
        may_be = before.endswith(("local-dir:", "hf:", "st:")) or (not before and canonical_name(model) is None)
        found = may_be and Path(path).exists()
    return f"{before}{Path(path).absolute()}" if found else before + path


def split_library(model: str) -> tuple[str, str]:
    """Split the name of another library's model before what may be a path, as in "open_clip:local-dir:" and "clip".

    The first part is "" for other names.
    """
    match = _OF_LIBRARY.fullmatch(model)
    return (match[1], match[2]) if match else ("", model)


def library_of(model: str) -> str:
    """Return the prefix of another library's model, one of `LIBRARIES`; "" for this package's."""
    return split_library(model)[0].removeprefix(RANDOM).partition(":")[0]


def no_directory(name: str) -> bool:
    """Return whether a name can only be a directory's, as a hub's has one slash at most, and there is none."""
    is_path = name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1
    return is_path and not Path(name).is_dir()


def needs_code(model: str) -> str:
    """Return the error for a model that runs code of its own."""
    trust = "add --trust-remote-code, in Python trust_remote_code=True"
    return f"{model} runs code of its own; read it, and if you trust it, {trust}"


def library_model_name(model: str) -> str:
    """Return the name to show of another library's model: of a directory or file, only its last part."""
    before, path = split_library(portable_name(model))
    return before.replace("local-dir:", "") + Path(path).name if Path(path).is_absolute() else before + path


def find_model(name: str, others: Collection[str] = ()) -> ModelEntry:
    """Return the entry of a canonical name or alias; UnknownModelError shows near matches, also among `others`."""
    canonical = canonical_name(name)
    if canonical is not None:
        return MODELS[canonical]
    shown = {alias: MODELS[canonical].shown for alias, canonical in _NAMES.items()}
    shown |= {item.rpartition("/")[2].lower(): item for item in others} | {item.lower(): item for item in others}
    near = difflib.get_close_matches(name.lower(), shown, n=3, cutoff=0.5)
    matches = ", ".join(dict.fromkeys(shown[match] for match in near))
    hint = f"did you mean {matches}?" if matches else "`pe models` lists them all"
    raise UnknownModelError(f"no model is called {name!r}; {hint}")


BUILTIN_LANG = "builtin-lang"
"""The built-in encoder with SmolLM2-135M, aligned by this project; the trained part is in the package."""
BUILTIN_DEPTH, BUILTIN_DETECTOR = "builtin-depth", "builtin-detector"
"""Heads of the built-in Spatial model, trained by this project and shipped inside the package."""
SMALL_CORE, SMALL_SPATIAL, SMALL_LANG = "PE-Core-S16-384", "PE-Spatial-S16-512", "facebook/Perception-LM-1B"
"""The published models to suggest first: small ones, good enough to show what a published model does."""
DETECTORS = "facebook/PE-Detection"
"""The hub's repository of published detectors; users download one of them."""


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A language model or a head."""

    name: str
    purpose: str
    licence: str
    download_bytes: int | None
    """0 for models in the package, None if unknown; for Perception-LM computed from its parameters."""


_NONCOMMERCIAL = "noncommercial"
OTHER_MODELS: dict[str, ListedModel] = {
    name: ListedModel(name=name, purpose=purpose, licence=licence, download_bytes=size)
    for name, purpose, licence, size in (
        ("facebook/Perception-LM-8B", "ask, caption", _NONCOMMERCIAL, 19_700_000_000),
        ("facebook/Perception-LM-3B", "ask, caption", _NONCOMMERCIAL, 7_100_000_000),
        (SMALL_LANG, "ask, caption", _NONCOMMERCIAL, 3_100_000_000),
        (DETECTORS, "detect", "Apache-2.0", None),
        (BUILTIN_LANG, "demo: ask, caption", "Apache-2.0", 0),
        (BUILTIN_DEPTH, "demo: depth", "Apache-2.0", 0),
        (BUILTIN_DETECTOR, "demo: detect", "Apache-2.0", 0),
    )
}
"""Language models and heads by name, published ones first."""


def find_listed(name: str) -> ModelEntry | ListedModel:
    """Return the entry of an encoder, a language model or a head; UnknownModelError shows near matches."""
    return OTHER_MODELS.get(name) or find_model(name, OTHER_MODELS)


def demo_note(name: str) -> str:
    """Return a line that says that a built-in model is a demo and how to choose another; "" for other models.

    `name`: of a loaded model (`Encoder.name`, `LanguageModel.name`), or of a head.
    """
    if name not in _REMEDIES:
        return ""
    return f"{name} is a small demo model, and its results are often wrong; {_REMEDIES[name]}"


def demo_line(source: str) -> str:
    """Return the `demo_note` of a model by the name or alias that a user gave."""
    return demo_note(shown_name(source) or source)


def choose_command(name: str) -> str:
    """Return the command that makes a published model the default, with its download size."""
    return f"pe models use {name} ({(find_listed(name).download_bytes or 0) / 1e9:.2f} GB)"


_REMEDIES: dict[str, str] = {
    "builtin": f"choose a published model: {choose_command(SMALL_CORE)}",
    "builtin-spatial": f"choose a published model: {choose_command(SMALL_SPATIAL)}",
    BUILTIN_LANG: f"choose a published model: {choose_command(SMALL_LANG)}",
    BUILTIN_DEPTH: "no depth head is published: train one on your own data with pe train depth",
    BUILTIN_DETECTOR: "choose a published detector: download a file of huggingface.co/facebook/PE-Detection, "
    "then pe models use FILE",
}
