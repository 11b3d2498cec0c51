"""`pe models`: list the models, or choose the default one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import argument
from perception_encoder.models.registry import MODELS, ModelEntry, canonical_name, find_model, list_models


class _ListByDefault(TyperGroup):
    """The group of `pe models`: without the name of a command it lists."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_command = args and args[0] in {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if is_command else ["list", *args])


app = typer.Typer(cls=_ListByDefault, subcommand_metavar="[list] [NAME]... | use MODEL")

COLUMNS = ("model", "GB", "px", "patch", "width", "layers", "dim", "text", "IN-1k", "K400", "COCO")


@app.callback()
def models() -> None:
    """List the models, or choose the default.

    `pe models` is short for `pe models list`.

    Examples:

        pe models
        pe models builtin PE-Core-L-14-336 --json
        pe models use PE-Core-L14-336
    """


@app.command("list")
def list_(
    names: Annotated[list[str] | None, argument("NAME", "Names or aliases [default: all models].")] = None,
    json: options.Json = False,
) -> None:
    """List the models and their published scores.

    Columns: download in GB; side of the image and of a patch in pixels; width and number of layers; dimension of the
    embedding; text length in tokens; published zero-shot scores in percent: top-1 on ImageNet and on Kinetics-400,
    text-to-image R@1 on COCO (very probably with dual softmax). Names of timm, open_clip and the hub are accepted too;
    --json lists them.

    Examples:

        pe models list
        pe models list builtin PE-Core-L-14-336 --json
    """
    entries = [find_model(name) for name in names] if names else [MODELS[name] for name in list_models()]
    if json:
        output.print_json([_as_json(entry) for entry in entries])
        return
    output.print_table(COLUMNS, map(_as_row, entries))
    demo = "builtin, a small offline demo; choose another with: pe models use NAME"
    output.print_remark(f"default: {default_model.chosen_model() or demo}")


@app.command()
def use(model: options.OwnModel) -> None:
    """Download a model and make it the default.

    It is then the model of every command without -m. The environment variable PE_MODEL overrides it; an index is always
    searched by its own model.

    Examples:

        pe models use PE-Core-L14-336
        pe models use checkpoints/model.safetensors
    """
    new_default = default_model.choose_model(model)
    output.print_line(f"default: {new_default}")
    if (now := default_model.chosen_model()) != new_default:
        output.print_warning(f"the environment variable {default_model.VARIABLE} overrides it: {now}")


def _as_json(entry: ModelEntry) -> dict[str, Any]:
    derived = {"repository": entry.repository, "download_bytes": entry.download_bytes, "aliases": entry.aliases}
    default = canonical_name(default_model.unchecked_default()) == entry.name
    return {**asdict(entry), **derived, "default": default}


def _as_row(entry: ModelEntry) -> tuple[object, ...]:
    vision, text, none = entry.vision, entry.text, output.NONE
    sizes = (vision.image_size, vision.patch_size, vision.width, vision.depth)
    scores = (entry.published.get(key, none) for key in ("imagenet", "kinetics400", "coco_t2i"))
    download = f"{entry.download_bytes / 1e9:.2f}" if entry.download_bytes else none
    return (entry.name, download, *sizes, vision.output_dim or none, text.context_length if text else none, *scores)
