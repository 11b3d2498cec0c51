"""The options that several commands share, so that each has one name, one short flag and one help text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from perception_encoder.errors import ConfigError
from perception_encoder.inference.model_spec import Decoding, ModelSpec, PoolChoice, PrecisionChoice

QUERY, DATASET, MEDIA, VIDEO, ANSWER = "Query", "Dataset", "Media", "Video", "Answer"
MODEL, HEAD, OUTPUT, SPEED, PLAN, NETWORK = "Model", "Head", "Output", "Speed", "Plan", "Network"
"""The panels of the help texts."""
NAME, LIBRARIES = "Name, alias or checkpoint", "timm:NAME; open_clip:NAME,WEIGHTS; hf:NAME (transformers); st:NAME"
BY_POSITION = "by position"
"""Stands in the annotation of an option whose value may also be given without its flag: `MODEL` for `-m MODEL`."""


def option(
    text: str,
    metavar: str | None = None,
    panel: str | None = None,
    *,
    names: str = "",
    least: float | None = None,
    advanced: bool = False,
) -> Any:
    """An option with a value and help.

    `names`: by default the parameter's; `least`: the smallest number allowed; `advanced`: see `flag`.
    """
    metavar = metavar or (None if least is None else "N")
    return typer.Option(*names.split(), metavar=metavar, rich_help_panel=panel, min=least, help=text, hidden=advanced)


def flag(names: str, text: str, panel: str | None = None, *, advanced: bool = False) -> Any:
    """An option without a value; `names`: its names, separated by spaces; `advanced`: shown by --help-all only."""
    return typer.Option(*names.split(), rich_help_panel=panel, help=text, hidden=advanced)


def argument(metavar: str, text: str) -> Any:
    """A positional argument."""
    return typer.Argument(metavar=metavar, help=text)


def model_option(default: str = "", others: str = "") -> Any:
    """`-m`, `--model`; `default`: the model used without it; `others`: accepted names of other libraries' models."""
    text = "; ".join(filter(None, (NAME, others))) + (f" [default: {default}]." if default else ".")
    return option(text, "MODEL", MODEL, names="--model -m")


def out_option(text: str, metavar: str = "FILE") -> Any:
    """`-o`, `--out`."""
    return option(text, metavar, OUTPUT, names="--out -o")


Model = Annotated[str | None, model_option("see `pe models`", LIBRARIES)]
IndexModel = Annotated[str | None, model_option("the index's, else see `pe models`", LIBRARIES)]
PRECISION = "Number format of the computation; int8 needs the extra fast."
Precision = Annotated[PrecisionChoice, option(PRECISION, panel=SPEED, advanced=True)]
Dimensions = Annotated[
    int | None, option("Length of vectors, of Matryoshka models [default: whole].", "N", MODEL, advanced=True, least=1)
]
TRUST = "Run the code that a model of hf: or st: comes with; read it first."
TrustRemoteCode = Annotated[bool, flag("--trust-remote-code", TRUST, MODEL, advanced=True)]
OwnModel = Annotated[str, model_option(), BY_POSITION]
LayeredModel = Annotated[
    str, model_option(others="timm:NAME; hf:NAME (transformers); random:NAME for random weights"), BY_POSITION
]
LAYER, POOL = "Layer: 0, 1, … or -1, -2, … [default: the last].", "Pooling [default: the model's]; tokens for none."
Layer = Annotated[int | None, option(LAYER, "N", MODEL)]
Pool = Annotated[PoolChoice | None, option(POOL, panel=MODEL)]
DrawnModel = Annotated[str | None, model_option("see `pe models`", "timm:NAME; hf:NAME")]
LANGUAGE_MODELS = (
    "facebook/Perception-LM-1B, a run of `pe train`, an endpoint as http://HOST/v1#MODEL, hf:NAME (transformers), "
    "python:MODULE:FUNCTION, or builtin-lang, a demo"
)
"""The names that `load_assistant` takes."""
LanguageModel = Annotated[
    str | None, option(f"{LANGUAGE_MODELS} [default: see `pe models`].", "MODEL", MODEL, names="--model -m")
]
LOADING = {"precision": Precision, "dimensions": Dimensions, "trust_remote_code": TrustRemoteCode}
DECODING = "Decode large photographs and videos whole, or reduced, which is several times as fast"
Decoded = Annotated[Decoding | None, option(f"{DECODING} [default: exact].", panel=SPEED)]
IndexDecoded = Annotated[Decoding | None, option(f"{DECODING} [default: the index's, else reduced].", panel=SPEED)]
TRUSTING = {"trust_remote_code": TrustRemoteCode}
Spec = Annotated[ModelSpec, {"model": Model, **LOADING}]
"""A command's model: the options that a `ModelSpec` is made of, by its fields (see `groups.expand`)."""
PooledSpec = Annotated[ModelSpec, {"model": Model, "layer": Layer, "pool": Pool, "decoding": Decoded, **LOADING}]
IndexSpec = Annotated[ModelSpec, {"model": IndexModel, "decoding": IndexDecoded, **LOADING}]
LayeredSpec = Annotated[ModelSpec, {"model": LayeredModel, **TRUSTING}]
LanguageSpec = Annotated[ModelSpec, {"model": LanguageModel, "precision": Precision}]
ShownPrecision = Annotated[PrecisionChoice, option(PRECISION)]
DefaultSpec = Annotated[ModelSpec, {"model": OwnModel, "precision": ShownPrecision, **TRUSTING}]
DrawnSpec = Annotated[ModelSpec, {"model": DrawnModel, **TRUSTING}]
Files = Annotated[list[str], argument("FILES", "Images, videos, directories, globs, tables, tars, URLs.")]
Embeddings = Annotated[Path, out_option("A .parquet file, .lance table, or directory (npy + parquet).", "OUT")]
IndexHome = Annotated[Path | None, option("Directory of the index [default: DIR/.pe-index].", "DIR", names="--index")]
Exclude = Annotated[
    list[str] | None,
    option("Exclude files of directories by a pattern in .gitignore's syntax; repeat for more.", "PATTERN"),
]
RAY = (
    "Read files on a Ray cluster: auto, HOST:PORT, or local for one on this machine. "
    "All machines must see the files under the same paths."
)
Ray = Annotated[str | None, option(RAY, "ADDRESS", advanced=True)]
Json = Annotated[bool, flag("--json", "Print JSON.", OUTPUT)]
Html = Annotated[Path | None, option("Write a contact sheet, a page of thumbnails.", "FILE", OUTPUT)]
Strict = Annotated[bool, flag("--strict", "Exit with status 1 if any input was skipped.", advanced=True)]
Overwrite = Annotated[bool, flag("--overwrite", "Replace the output if it exists.", OUTPUT)]
Frames = Annotated[int, option("Uniformly spaced frames of a video.", panel=VIDEO, least=1)]
MaxFrames = Annotated[int, option("Maximum number of frames of a video.", panel=MEDIA, least=1)]
Tiles = Annotated[
    int | None, option("Maximum number of tiles of an image; 0: none [default: the model's].", "N", MODEL, least=0)
]
Prompts = Annotated[
    str, option("Prompt templates: photo (25), imagenet (80), kinetics (28), actions (48) or name.", "NAME")
]
Size = Annotated[str | None, option("Squash images to a size such as 518 or 480x640 [default: the model's].", "SIZE")]
PerMetre = Annotated[float, option("Depth units per metre in the files: NYU 1000, TUM 5000.", least=1)]
FinalNorm = Annotated[bool, flag("--final-norm", "Apply the final norm to the last layer.")]
Lan = Annotated[
    bool, flag("--lan", "Let devices on your network open the page; makes a key unless --key gives one.", NETWORK)
]
Host = Annotated[
    str | None, option("Address to listen on [default: 127.0.0.1, or all addresses with --lan].", "ADDRESS", NETWORK)
]
Key = Annotated[
    str | None,
    typer.Option(
        envvar="PE_API_KEY",
        metavar="KEY",
        rich_help_panel=NETWORK,
        help="Key that every request needs: a browser once, in the printed address; programs as "
        "`Authorization: Bearer KEY`.",
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, metavar="N", rich_help_panel=NETWORK, help="Port to listen on.")]
Jobs = Annotated[int | None, option("Processes [default: one per core].", least=1)]
SETTING = "Override a setting; write a list as [0.9,0.95]."
Overrides = Annotated[list[str] | None, option(SETTING, "NAME=VALUE", names="--set")]


def without(arguments: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return a command's arguments, its `locals()`, except those that its public call does not take as they are."""
    return {name: value for name, value in arguments.items() if name not in names}


def items_of(text: str) -> list[str]:
    """Split a comma-separated option."""
    return [item.strip() for item in text.split(",")]


def numbers(text: str) -> list[float]:
    """Read comma-separated numbers; ConfigError for anything else."""
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise ConfigError(f"{text!r} is not a list of numbers separated by commas") from None


def read_layers(text: str) -> list[int]:
    """Read comma-separated layers; ConfigError for anything else."""
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise ConfigError(f"--layer is {text!r}; it must be numbers separated by commas, such as 0,5,-1") from None


def image_size(text: str | None) -> tuple[int, int] | None:
    """Read height and width from "518" or "480x640"; ConfigError for anything else."""
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d+)(?:x(\d+))?", text)):
        raise ConfigError(f"--size is {text!r}; it must be pixels, such as 518, or height x width, such as 480x640")
    return int(match[1]), int(match[2] or match[1])
