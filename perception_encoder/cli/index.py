"""`pe index`: make a folder's pictures and videos ready to be searched."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli.progress import late_progress

if TYPE_CHECKING:
    from perception_encoder.errors import InputError

app = typer.Typer()

FOLDERS = "Folders; each gets an index of its own, in FOLDER/.pe-index."
RAY = (
    "Read the files on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for one on this machine. "
    "Its machines must see the folders under the same paths."
)
REBUILD = "Make the index anew, whatever is there; without --model and --every, by those of the old index."
HOME = "Directory for the index of the one folder, instead of the folder itself."


@app.command()
def index(
    folders: Annotated[list[Path], typer.Argument(help=FOLDERS)],
    model: Annotated[str | None, typer.Option(help=default_model.INDEX_OPTION)] = None,
    every: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds between frames of a video [default: 1].")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help=REBUILD)] = False,
    home: Annotated[Path | None, typer.Option("--index", metavar="DIR", help=HOME)] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help=RAY)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help=output.STRICT)] = False,
) -> None:
    """Make or renew the index of folders, for `pe search`.

    Only what is new or changed is read; what moved is known by its content, and what is gone is forgotten. Videos are
    cut into moments, by shot changes and likeness. A run that was stopped goes on where it was when the same command is
    given again. Files that could not be used are listed.

    Examples:

        pe index photos
        pe index photos videos --every 0.5
        pe index photos --model PE-Core-L14-336 --rebuild
        pe index /mnt/photos --ray auto
        pe index /media/camera --index ~/indexes/camera
        pe search "a red mug" photos
    """
    from perception_encoder.inference.listing import check_paths
    from perception_encoder.search.index.cluster import on_cluster
    from perception_encoder.search.index.update import read_here, update_index, writable_index

    check_paths(folders)
    if home is not None and len(folders) > 1:
        raise typer.BadParameter("--index is for one folder; index the others one by one")
    source = ""
    reports: dict[str, dict[str, Any]] = {}
    failures: list[InputError] = []
    tried = 0
    with on_cluster(ray) if ray else nullcontext(read_here) as read:
        for folder in folders:
            held = writable_index(folder, model, every, rebuild, home, default_model.default_model)
            with held as opened, late_progress(f"{folder}") as begin:
                started = time.perf_counter()
                source = source or str(opened[0].settings["source"])
                report = update_index(*opened, begin, read)
                speed = report.added / (time.perf_counter() - started)
            failures += report.failures
            tried += report.added + report.moved + report.unchanged + len(report.failures)
            counts = {name: getattr(report, name) for name in ("added", "moved", "gone", "unchanged", "rows")}
            reports[str(folder)] = counts
            if not json:
                did = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "rows")
                output.print_line(f"{folder}: {did}; {report.rows} pictures and moments ({speed:.1f} files/s)")
    if json:
        skipped = [{"path": failure.source, "reason": failure.reason} for failure in failures]
        output.print_json({"folders": reports, "skipped": skipped})
    default_model.say_demo(source, model, json)
    raise typer.Exit(output.input_status(failures, tried, strict))
