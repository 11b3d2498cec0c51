"""`pe models`: every model by name, with its sizes and published scores; and the default one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.models.registry import MODELS, ModelEntry, canonical_name, find_model, list_models

app = typer.Typer()

COLUMNS = ("model", "GB", "px", "patch", "width", "layers", "dim", "text", "IN-1k", "K400", "COCO")


@app.command()
def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[use] [NAME]...", help="Names or aliases; all models without.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything known as JSON, aliases included.")] = False,
) -> None:
    """List the models: sizes and published scores; `pe models use NAME` makes one the default, and fetches it once.

    The default model is that of every command that names none by --model; the environment variable PE_MODEL overrides
    it, and an index keeps its own.

    Sizes: download in GB, side of the image and of a patch in pixels, width and number of layers, dimension of the
    embedding, text length in tokens. Scores: zero-shot top-1 on ImageNet and Kinetics-400, text-to-image R@1 on COCO
    (very probably with dual softmax), in percent, as published. `builtin`, `facebook/NAME` and the names of timm and
    open_clip are taken wherever a name is; `--json` shows them.

    Examples:

        pe models
        pe models builtin PE-Core-L-14-336 --json
        pe models use PE-Core-L14-336
    """
    if names and names[0] == "use":
        return use(names[1:])
    entries = [find_model(name) for name in names] if names else [MODELS[name] for name in list_models()]
    if json:
        output.print_json([describe(entry) for entry in entries])
        return
    output.print_table(COLUMNS, map(row, entries))
    chosen = default_model.chosen_model()
    demo = "builtin, a small offline demo; choose another with: pe models use NAME"
    output.print_line(f"default: {demo if chosen is None else chosen}")


def use(names: list[str]) -> None:
    """Make a model the default one."""
    if len(names) != 1:
        raise typer.BadParameter("name one model, as in: pe models use PE-Core-L14-336")
    stored = default_model.choose_model(names[0])
    output.print_line(f"default: {stored}")
    if (now := default_model.chosen_model()) != stored:
        output.print_warning(f"the environment variable {default_model.VARIABLE} overrides it: {now}")


def describe(entry: ModelEntry) -> dict[str, Any]:
    """All that the registry knows about a model."""
    computed = {"repository": entry.repository, "download_bytes": entry.download_bytes, "aliases": entry.aliases}
    default = canonical_name(default_model.unchecked_default()) == entry.name
    return {**asdict(entry), **computed, "default": default}


def row(entry: ModelEntry) -> tuple[object, ...]:
    """One line of the table; a dash where the model has no such part or score."""
    vision, text = entry.vision, entry.text
    sizes = (vision.image_size, vision.patch_size, vision.width, vision.depth)
    scores = (entry.published.get(key, "–") for key in ("imagenet", "kinetics400", "coco_t2i"))
    download = f"{entry.download_bytes / 1e9:.2f}" if entry.download_bytes else "–"
    return (entry.name, download, *sizes, vision.output_dim or "–", text.context_length if text else "–", *scores)
