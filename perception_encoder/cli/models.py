"""`pe models`: list the models, or choose the defaults."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perception_encoder.cli import options, output
from perception_encoder.cli.groups import expand
from perception_encoder.cli.options import argument, option
from perception_encoder.errors import ConfigError, UnknownModelError
from perception_encoder.models.defaults import VARIABLE, chosen_model, chosen_models, describe_models
from perception_encoder.models.registry import SMALL_CORE, choose_command


class _ListByDefault(TyperGroup):
    """A group whose command `list` needs no name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_command = args and args[0] in {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if is_command else ["list", *args])


app = typer.Typer(cls=_ListByDefault, subcommand_metavar="[list] [NAME]... | use MODEL | compiled")

COMPILED = ("model", "tower", "precision", "layer", "MB", "last used", "usable", "request", "images/s")
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
    described = describe_models(names or ())
    if json:
        output.print_json(described)
        return
    output.print_table(COLUMNS, map(_as_row, described))
    for default in chosen_models():
        output.print_remark(f"default for {default.used_by}: {default.name}")
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
    from perception_encoder.model_choice import use_model

    chosen = use_model(model)
    of_precision = f" in {chosen.precision}" if chosen.precision else ""
    output.print_line(f"{chosen.name}{of_precision} is now the default for {chosen.used_by}")
    if model.trust_remote_code:
        output.print_remark("the trust is not stored; add --trust-remote-code to each command")
    if (now := chosen_model(chosen.kind)) != chosen.name:
        output.print_warning(f"the environment variable {VARIABLE} overrides it: {now}")


@app.command()
def compiled(
    delete: Annotated[str | None, option("Delete a model's, or all.", "NAME|all")] = None,
    measure: Annotated[
        str | None, option("Measure anew, when it is next used, how many images a model computes together.", "NAME|all")
    ] = None,
    json: options.Json = False,
) -> None:
    """List or delete the compiled models.

    On a CPU, each tower of a model is converted for OpenVINO when it is first used, and cached: at most 20 GB, the
    least recently used go first. A deleted one is converted again when needed. Columns: tower; precision; the layer
    whose tokens it returns; size on disk; last use; whether it fits the installed libraries and this CPU; how it
    computes large batches (images a request × requests at a time) and images a second then, as measured here.

    Examples:

        pe models compiled
        pe models compiled --delete PE-Core-L14-336
        pe models compiled --delete all
        pe models compiled --measure all
    """
    from perception_encoder.runtime import cache

    if delete is not None and measure is not None:
        raise ConfigError("give --delete or --measure, not both")
    name = delete or measure
    change = cache.delete if delete else cache.measure_again
    entries = cache.entries() if name is None else change(None if name == "all" else name)
    if name not in (None, "all") and not entries:
        names = ", ".join(sorted({entry.model for entry in cache.entries()})) or "none"
        raise UnknownModelError(f"no compiled model is called {name!r}; there are: {names}")
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
    speed = output.NONE if entry["images_per_second"] is None else f"{entry['images_per_second']:.1f}"
    return (*named, layer, f"{entry['bytes'] / 1e6:.0f}", used, usable, entry["request"] or output.NONE, speed)


def _as_row(model: dict[str, Any]) -> tuple[object, ...]:
    none, size = output.NONE, model["download_bytes"]
    common = (model["purpose"], none if size is None else f"{size / 1e9:.2f}", model["licence"])
    if "vision" not in model:
        return (model["name"], *common, *[none] * 5)
    scores = (model["published"].get(key, none) for key in ("imagenet", "kinetics400", "coco"))
    vision = model["vision"]
    return (model["builtin"] or model["name"], *common, vision["image_size"], vision["output_dim"] or none, *scores)
