"""`pe models`: list the models, or choose the default one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import argument
from perception_encoder.models.registry import MODELS, ModelEntry, canonical_name, find_model, list_models

app = typer.Typer()

COLUMNS = ("model", "GB", "px", "patch", "width", "layers", "dim", "text", "IN-1k", "K400", "COCO")


@app.command()
def models(
    names: Annotated[list[str] | None, argument("[use] [NAME]...", "Names or aliases [default: all models].")] = None,
    json: options.Json = False,
) -> None:
    """List the models, or choose the default.

    `pe models use NAME` downloads a model and makes it the default of every command without -m. The environment
    variable PE_MODEL overrides it; an index is always searched by its own model.

    Columns: download in GB; side of the image and of a patch in pixels; width and number of layers; dimension of the
    embedding; text length in tokens; published zero-shot scores in percent: top-1 on ImageNet and on Kinetics-400,
    text-to-image R@1 on COCO (very probably with dual softmax). Names of timm, open_clip and the hub are accepted too;
    --json lists them.

    Examples:

        pe models
        pe models builtin PE-Core-L-14-336 --json
        pe models use PE-Core-L14-336
    """
    if names and names[0] == "use":
        return _use(names[1:])
    entries = [find_model(name) for name in names] if names else [MODELS[name] for name in list_models()]
    if json:
        output.print_json([_as_json(entry) for entry in entries])
        return
    output.print_table(COLUMNS, map(_as_row, entries))
    demo = "builtin, a small offline demo; choose another with: pe models use NAME"
    output.print_remark(f"default: {default_model.chosen_model() or demo}")


def _use(names: list[str]) -> None:
    if len(names) != 1:
        raise typer.BadParameter("name one model, as in: pe models use PE-Core-L14-336")
    stored = default_model.choose_model(names[0])
    output.print_line(f"default: {stored}")
    if (now := default_model.chosen_model()) != stored:
        output.print_warning(f"the environment variable {default_model.VARIABLE} overrides it: {now}")


def _as_json(entry: ModelEntry) -> dict[str, Any]:
    computed = {"repository": entry.repository, "download_bytes": entry.download_bytes, "aliases": entry.aliases}
    default = canonical_name(default_model.unchecked_default()) == entry.name
    return {**asdict(entry), **computed, "default": default}


def _as_row(entry: ModelEntry) -> tuple[object, ...]:
    vision, text, none = entry.vision, entry.text, output.NONE
    sizes = (vision.image_size, vision.patch_size, vision.width, vision.depth)
    scores = (entry.published.get(key, none) for key in ("imagenet", "kinetics400", "coco_t2i"))
    download = f"{entry.download_bytes / 1e9:.2f}" if entry.download_bytes else none
    return (entry.name, download, *sizes, vision.output_dim or none, text.context_length if text else none, *scores)
