"""`pe models`: list the models, or choose the defaults."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import argument
from perception_encoder.models.registry import (
    OTHER_MODELS,
    SMALL_CORE,
    ListedModel,
    ModelEntry,
    canonical_name,
    choose_command,
    find_listed,
    list_models,
)


class _ListByDefault(TyperGroup):
    """A group whose command `list` needs no name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_command = args and args[0] in {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if is_command else ["list", *args])


app = typer.Typer(cls=_ListByDefault, subcommand_metavar="[list] [NAME]... | use MODEL")

COLUMNS = ("model", "purpose", "GB", "licence", "px", "dim", "IN-1k", "K400", "COCO")


@app.callback()
def models() -> None:
    """List the models, or choose the default.

    `pe models` is short for `pe models list`.

    Examples:

        pe models
        pe models builtin PE-Core-L-14-336 --json
        pe models use PE-Core-S16-384
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
    for kind in default_model.USED_BY:
        if model := default_model.chosen_model(kind):
            output.print_remark(f"default of {default_model.USED_BY[kind]}: {model}")
    if default_model.chosen_model() is None:
        output.print_remark(f"default: builtin, a small demo; choose another: {choose_command(SMALL_CORE)}")


@app.command()
def use(model: options.OwnModel) -> None:
    """Make a model the default.

    MODEL is a name, a file, or the directory of a run. Commands use the default unless -m names another model: a model
    with a text tower is for all commands that compare images and texts, a Spatial model for track and segment, a
    language model for ask, caption and engine run, a head for depth, detect or segment. Encoders are downloaded now,
    Perception-LM when first used. The environment variable PE_MODEL overrides a model with a text tower; an index
    always uses the model that made it.

    Examples:

        pe models use PE-Core-S16-384
        pe models use facebook/Perception-LM-1B
        pe models use runs/depth/head.safetensors
    """
    kind, new_default = default_model.choose_model(model)
    output.print_line(f"default of {default_model.USED_BY[kind]}: {new_default}")
    if (now := default_model.chosen_model(kind)) != new_default:
        output.print_warning(f"the environment variable {default_model.VARIABLE} overrides it: {now}")


def _as_json(entry: ModelEntry | ListedModel) -> dict[str, Any]:
    if isinstance(entry, ListedModel):
        chosen = [default_model.chosen_model(kind) for kind in default_model.USED_BY]
        return {**asdict(entry), "default": entry.name in chosen}
    derived = {name: getattr(entry, name) for name in ("purpose", "repository", "download_bytes", "aliases")}
    default = canonical_name(default_model.unchecked_default()) == entry.name
    return {**asdict(entry), **derived, "default": default}


def _as_row(entry: ModelEntry | ListedModel) -> tuple[object, ...]:
    none = output.NONE
    size = entry.download_bytes
    common = (entry.purpose, none if size is None else f"{size / 1e9:.2f}", entry.licence)
    if isinstance(entry, ListedModel):
        return (entry.name, *common, *[none] * 5)
    scores = (entry.published.get(key, none) for key in ("imagenet", "kinetics400", "coco_t2i"))
    name = entry.builtin or entry.name
    return (name, *common, entry.vision.image_size, entry.vision.output_dim or none, *scores)
