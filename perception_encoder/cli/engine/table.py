"""The live table of an engine's stages, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from perception_encoder.cli import output
from perception_encoder.video_data_engine.report import EngineReport

COLUMNS = ("stage", "done", "failed", "seconds", "share")


def stage_cells(report: EngineReport) -> list[list[str]]:
    """Return the cells of the table, a row for each stage."""
    return [
        [row.stage, str(row.done), str(row.failed), f"{row.seconds:.1f}", f"{row.share:.0%}"] for row in report.rows()
    ]


def speed_line(report: EngineReport) -> str:
    """Return how far and how fast a run is, in one line."""
    return (
        f"{report.done['probe']} of {report.videos - report.skipped} videos, {report.clips} clips finished, "
        f"{report.videos_per_minute:.1f} videos/min, {report.frames_per_second:.0f} frames/s decoded in a process"
    )


@contextmanager
def live_table() -> Iterator[Callable[[EngineReport], None]]:
    """Show the table on stderr while the block runs, if it is a terminal; yields what takes each new report."""
    if not output.error_console.is_terminal:
        yield lambda report: None
        return
    with Live(console=output.error_console, refresh_per_second=2, transient=True) as live:
        yield lambda report: live.update(_table(report))


def _table(report: EngineReport) -> Group:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "stage" else "right")
    for cells in stage_cells(report):
        table.add_row(*cells)
    return Group(table, Text(speed_line(report), style="dim"))
