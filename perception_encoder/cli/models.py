"""`pe models`: list the models, or choose the defaults."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perception_encoder.cli import options, output
from perception_encoder.cli.groups import expand
from perception_encoder.cli.options import argument, option
from perception_encoder.errors import ConfigError, UnknownModelError, WeightsUnavailableError
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.models.defaults import BUILTIN_DEFAULTS, VARIABLE, DefaultKind, chosen_model, store_choice
from perception_encoder.models.registry import (
    BUILTIN,
    DETECTORS,
    OTHER_MODELS,
    SMALL_CORE,
    ListedModel,
    ModelEntry,
    canonical_name,
    choose_command,
    find_listed,
    find_model,
    library_of,
    list_models,
    needs_code,
    no_directory,
    portable_name,
    shown_name,
    split_library,
)

USED_BY: dict[DefaultKind, str] = {
    "model": "search, classify, embed and every other command that compares images and texts",
    "spatial": "track and segment",
    "language": "ask, caption and engine run",
    "depth": "depth",
    "detection": "detect",
    "segmentation": "segment",
}
"""The commands that use the default of each kind."""


class _ListByDefault(TyperGroup):
    """A group whose command `list` needs no name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_command = args and args[0] in {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if is_command else ["list", *args])


app = typer.Typer(cls=_ListByDefault, subcommand_metavar="[list] [NAME]... | use MODEL | compiled")

COMPILED = ("model", "tower", "precision", "layer", "MB", "last used", "usable")
COLUMNS = ("model", "purpose", "GB", "licence", "px", "dim", "IN-1k", "K400", "COCO")


@app.callback()
def models() -> None:
    """List models, and choose the default.

    `pe models` is short for `pe models list`.

    Examples:

        pe models
        pe models builtin PE-Core-L-14-336 --json
        pe models use PE-Core-S16-384
        pe models compiled --delete all
    """


@app.command("list")
def list_(
    names: Annotated[list[str] | None, argument("NAME", "Names or aliases [default: all models].")] = None,
    json: options.Json = False,
) -> None:
    """List the models and their published scores.

    Encoders, language models and heads. Columns: purpose; download in GB (0: a demo in the package); licence; image
    side in pixels; dimension of the embedding; published zero-shot scores in percent: top-1 on ImageNet and
    Kinetics-400, text-to-image R@1 on COCO (most likely with dual softmax). Perception-LM has the FAIR Noncommercial
    Research License. Names of timm, open_clip and the hub are accepted as well; --json lists them, with layers, widths
    and patch sizes.

    Examples:

        pe models list
        pe models list builtin PE-Core-L-14-336 --json
    """
    listed = names or [*list_models(), *OTHER_MODELS]
    entries = [find_listed(name) for name in listed]
    if json:
        output.print_json([_as_json(entry) for entry in entries])
        return
    output.print_table(COLUMNS, map(_as_row, entries))
    for kind, commands in USED_BY.items():
        if model := chosen_model(kind):
            output.print_remark(f"default for {commands}: {model}")
    if chosen_model() is None:
        output.print_remark(f"default: builtin, a small demo; choose another: {choose_command(SMALL_CORE)}")


@app.command()
@expand
def use(model: options.DefaultSpec) -> None:
    """Make a model the default.

    MODEL is a name, a file, or the directory of a run. Commands use the default unless -m names another model: a model
    with a text tower is for all commands that compare images and texts, a Spatial model for track and segment, a
    language model for ask, caption and engine run, a head for depth, detect or segment. Encoders are downloaded now,
    Perception-LM when first used. Names of timm:, open_clip:, hf: and st: are accepted too. The environment variable
    PE_MODEL overrides a model with a text tower; an index always uses the model that made it.

    Examples:

        pe models use PE-Core-S16-384
        pe models use PE-Core-L14-336 --precision int8
        pe models use open_clip:ViT-B-32,laion2b_s34b_b79k
        pe models use facebook/Perception-LM-1B
        pe models use runs/depth/head.safetensors
    """
    from perception_encoder.models.checkpoints.find import find_weights
    from perception_encoder.runtime.choice import runtime_for

    name, kind = str(model.name), kind_of(model)
    precision = None if model.precision == "auto" else model.precision
    if precision and kind != "model":
        raise ConfigError(f"{name} has no text tower; --precision is for models with one")
    if precision and not library_of(name):
        runtime_for("auto", precision, None)
    if kind == "model" and library_of(name):
        from perception_encoder.inference.load import load

        load(model)  # which says what is wrong
    elif kind in ("model", "spatial"):
        find_weights(name)
    new_default = shown_name(name) or portable_name(name)
    store_choice(kind, new_default, precision)
    of_precision = f" in {precision}" if precision else ""
    output.print_line(f"{new_default}{of_precision} is now the default for {USED_BY[kind]}")
    if model.trust_remote_code:
        output.print_remark("the trust is not stored; add --trust-remote-code to each command")
    if (now := chosen_model(kind)) != new_default:
        output.print_warning(f"the environment variable {VARIABLE} overrides it: {now}")


@app.command()
def compiled(
    delete: Annotated[str | None, option("Delete a model's, or all.", "NAME|all")] = None,
    json: options.Json = False,
) -> None:
    """List or delete the compiled models.

    On a CPU, each tower of a model is converted for OpenVINO when it is first used, and cached: at most 20 GB, the
    least recently used go first. A deleted one is converted again when needed. Columns: tower; precision; the layer
    whose tokens it returns; size on disk; last use; whether it fits the installed libraries and this CPU.

    Examples:

        pe models compiled
        pe models compiled --delete PE-Core-L14-336
        pe models compiled --delete all
    """
    from perception_encoder.runtime import cache

    if delete is None or delete == "all":
        entries = cache.entries() if delete is None else cache.delete()
    else:
        entries = cache.delete(shown_name(delete) or delete)
        if not entries:
            names = ", ".join(sorted({entry.model for entry in cache.entries()})) or "none"
            raise UnknownModelError(f"no compiled model is called {delete!r}; there are: {names}")
    found = [entry.to_dict() for entry in entries]
    if json:
        output.print_json(found)
    elif delete is not None:
        output.print_line(f"deleted: {len(found)} towers, {sum(row['bytes'] for row in found) / 1e6:.0f} MB")
    elif found:
        output.print_table(COMPILED, map(_as_compiled_row, found))
    else:
        output.print_remark("no model is compiled yet")


def _as_compiled_row(entry: dict[str, Any]) -> tuple[object, ...]:
    layer = output.NONE if entry["layer"] is None else entry["layer"]
    used = entry["last_used"][:16].replace("T", " ")
    usable = "yes" if entry["usable"] else "no"
    named = entry["model"], entry["tower"], entry["precision"]
    return (*named, layer, f"{entry['bytes'] / 1e6:.0f}", used, usable)


def kind_of(model: ModelSpec) -> DefaultKind:
    """Return the use of a model; UnknownModelError and CheckpointError if it is not a model."""
    from perception_encoder.dense_prediction import dense_model
    from perception_encoder.dense_prediction.published_detectors import published_detector
    from perception_encoder.language_alignment.weights import METADATA, WEIGHTS
    from perception_encoder.models.checkpoints.files import SUFFIXES, read_checkpoint
    from perception_encoder.models.checkpoints.weights import find_entry

    builtin: dict[str, DefaultKind] = {name: kind for kind, name in BUILTIN_DEFAULTS.items()}
    name = str(model.name)
    path, config = Path(name), Path(name) / "config.json"
    if name in builtin:
        return builtin[name]
    if name == DETECTORS:
        raise UnknownModelError(f"{DETECTORS} has several detectors; download one, then: pe models use FILE")
    if (library := library_of(name)) == "hf" and no_directory(directory := split_library(name)[1]):
        raise WeightsUnavailableError(f"{name} is not a model: there is no directory {directory}")
    if library and (library != "hf" or _is_encoder(model)):
        return "model"
    if library or name in OTHER_MODELS or name.startswith(("http://", "https://", "python:")):
        return "language"
    if canonical_name(name) is None and path.suffix not in SUFFIXES and not path.exists():
        find_model(name, OTHER_MODELS)  # raises, with near matches
    if (path / WEIGHTS).is_file() or (config.is_file() and b'"perception_lm"' in config.read_bytes()):
        return "language"
    if path.is_file():
        tensors, metadata = read_checkpoint(path)
        if dense_model.METADATA in metadata:
            heads: dict[str, DefaultKind] = {"depth": "depth", "segmentation": "segmentation"}
            return heads.get(dense_model.head_info(path, metadata).task, "detection")
        if METADATA in metadata:
            return "language"
        if any(name.startswith(("roi_heads.", "transformer.level_embed")) for name in tensors):
            published_detector(path, tensors)
            return "detection"
    return "model" if find_entry(name).text is not None else "spatial"


def _is_encoder(model: ModelSpec) -> bool:
    """Return whether a model of transformers has embeddings of images and texts, or is a vision tower.

    WeightsUnavailableError without the hub, and for a model that needs its own code without trust.
    """
    try:
        from transformers import AutoConfig, AutoModel

        from perception_encoder.models.checkpoints.find import hub_or_cache
        from perception_encoder.models.external_transformers import is_two_tower

        trust_remote_code, source = model.trust_remote_code, split_library(str(model.name))[1]
        with hub_or_cache(str(model.name), not Path(source).is_dir(), "hf:DIRECTORY"):
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        if own := getattr(config, "auto_map", {}):
            return "AutoModelForCausalLM" not in own
        is_vision_tower = hasattr(config, "patch_size") and hasattr(config, "image_size")
        return is_vision_tower or is_two_tower(AutoModel._model_mapping[type(config)])
    except WeightsUnavailableError:
        raise
    except Exception as error:  # of a missing library or file; a language model says more when it is loaded
        if "trust_remote_code" in str(error):
            raise WeightsUnavailableError(needs_code(str(model.name))) from None
        return False


def _as_json(entry: ModelEntry | ListedModel) -> dict[str, Any]:
    if isinstance(entry, ListedModel):
        return {**asdict(entry), "default": entry.name in map(chosen_model, USED_BY)}
    derived = {name: getattr(entry, name) for name in ("purpose", "repository", "download_bytes", "aliases")}
    return {**asdict(entry), **derived, "default": canonical_name(chosen_model() or BUILTIN) == entry.name}


def _as_row(entry: ModelEntry | ListedModel) -> tuple[object, ...]:
    none = output.NONE
    size = entry.download_bytes
    common = (entry.purpose, none if size is None else f"{size / 1e9:.2f}", entry.licence)
    if isinstance(entry, ListedModel):
        return (entry.name, *common, *[none] * 5)
    scores = (entry.published.get(key, none) for key in ("imagenet", "kinetics400", "coco"))
    name = entry.builtin or entry.name
    return (name, *common, entry.vision.image_size, entry.vision.output_dim or none, *scores)
