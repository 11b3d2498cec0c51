"""`pe index`: index directories, for `pe search` and `pe serve`."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import VIDEO, argument, flag, option
from perception_encoder.cli.progress import late_progress

if TYPE_CHECKING:
    from perception_encoder.errors import InputError

RAY = (
    "Read files on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for one on this machine. "
    "All machines must see the directories under the same paths."
)
REBUILD = "Build the index anew; without -m or --every, with the old index's settings."


def index(
    directories: Annotated[list[Path], argument("DIRS", "Directories; each gets its own index, DIR/.pe-index.")],
    every: Annotated[float | None, option("Seconds between frames [default: 1].", panel=VIDEO, least=0.01)] = None,
    model: options.IndexModel = None,
    home: options.IndexHome = None,
    rebuild: Annotated[bool, flag("--rebuild", REBUILD)] = False,
    ray: Annotated[str | None, option(RAY, "ADDRESS")] = None,
    json: options.Json = False,
    strict: options.Strict = False,
) -> None:
    """Index directories, for search and serve.

    Run it again to update an index: only new and changed files are read, moved files are recognised by their content,
    and deleted ones are removed. Videos are split into moments at shot changes. An interrupted run resumes when the
    same command is repeated. Files that cannot be read are listed.

    Examples:

        pe index photos
        pe index photos videos --every 0.5
        pe index photos -m PE-Core-L14-336 --rebuild
        pe index /mnt/photos --ray auto
        pe index /media/camera --index ~/indexes/camera
        pe search "a red mug" photos
    """
    from perception_encoder.inference.listing import check_paths
    from perception_encoder.search.index.cluster import on_cluster
    from perception_encoder.search.index.update import read_here, update_index, writable_index

    check_paths(directories)
    if home is not None and len(directories) > 1:
        raise typer.BadParameter("--index is for one directory; index the others one by one")
    sources: list[str] = []
    reports: dict[str, dict[str, Any]] = {}
    failures: list[InputError] = []
    total, left_out = 0, Counter[str]()
    with on_cluster(ray) if ray else nullcontext(read_here) as read:
        for directory in directories:
            lock = writable_index(directory, model, every, rebuild, home, default_model.default_model)
            with lock as parts, late_progress(f"{directory}") as begin:
                started = time.perf_counter()
                settings = parts[0].settings
                report = update_index(*parts, begin, read)
                speed = report.added / (time.perf_counter() - started)
            failures += report.failures
            total += report.added + report.moved + report.unchanged + len(report.failures)
            counts = {name: getattr(report, name) for name in ("added", "moved", "gone", "unchanged", "rows")}
            reports[str(directory)] = {"model": settings["model"], **counts, "left_out": dict(report.left_out)}
            left_out += report.left_out
            sources.append(settings["source"])
            if not json:
                changes = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "rows")
                output.print_line(f"{directory}: {changes}; {report.rows} images and moments ({speed:.1f} files/s)")
    if json:
        skipped = [{"path": failure.source, "reason": failure.reason} for failure in failures]
        output.print_json({"folders": reports, "skipped": skipped})
    output.report_left_out(left_out)
    default_model.print_demo(*sources, option=model)
    raise typer.Exit(output.input_status(failures, total, strict))
