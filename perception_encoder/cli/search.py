"""`pe search`, `pe near-duplicates` and `pe index`: search images and videos by text and by example."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import OUTPUT, QUERY, VIDEO, argument, flag, option
from perception_encoder.cli.output import track
from perception_encoder.errors import InputError, needs_extra
from perception_encoder.inference.model_spec import DEFAULT
from perception_encoder.models.defaults import default_model
from perception_encoder.models.registry import demo_line

if TYPE_CHECKING:
    from perception_encoder.search.ranking import Hit, SearchResult

IMAGE = "Search by an image, a video, or a moment: clip.mp4@12s; may repeat."
WORDS = "The query, then directories, globs, files, tables, tars or URLs [default: the current directory's index]."
MIN_SCORE = "Minimum cosine similarity, from -1 to 1 [default: none]."
ALL_BUT_ONE = "List the images of each group that may go if the one with the most pixels stays."
COLLAPSE = "Of hits that are nearly the same, such as a burst, show the best one, with the number of the others."
PREVIEW = "Show thumbnails in the terminal (kitty, iTerm2, sixel; else coloured blocks)."
PREVIEW_LINES = 12  # of the terminal
READ_WORDS = (
    "Also read the words in images, after their vectors, so that a query finds both. Later updates keep reading. "
    "Needs the extra `words`, and about 0.3 s an image on two cores."
)
EVERY = "Seconds between frames: each interval of a video has at least one [default: 1]."
REBUILD = "Build the index from scratch, by default with the old index's model, --every and --words."
VERIFY = (
    "First check all of the index for damage. Without this, `pe index` leaves out thumbnails, "
    "and a search checks its hits only, or once a day a small index."
)
COLUMNS = ("rank", "score", "path", "time", "id", "query", "why")
"""Columns of the piped table; it always has all of them, for scripts to rely on."""


Where = Annotated[str | None, option("Search only rows of the index that match a condition.", "SQL", QUERY)]
PathsOnly = Annotated[bool, flag("--print0 -0", "Print only the hits' paths, for `xargs -0`.", OUTPUT)]
Preview = Annotated[bool, flag("--preview", PREVIEW, OUTPUT)]


def search(
    words: Annotated[list[str] | None, argument("[QUERY] [FILES]...", WORDS)] = None,
    text: Annotated[list[str] | None, option("Search by this text as it is; may repeat.", "TEXT", QUERY)] = None,
    image: Annotated[list[str] | None, option(IMAGE, "FILE", QUERY)] = None,
    like: Annotated[str | None, option("Search by an indexed image or moment.", "ID", QUERY)] = None,
    where: Where = None,
    exclude: options.Exclude = None,
    min_score: Annotated[float | None, option(MIN_SCORE, "COSINE", QUERY)] = None,
    collapse: Annotated[bool, flag("--collapse", COLLAPSE, QUERY)] = False,
    top: Annotated[int, option("Number of hits per query.", panel=OUTPUT, least=1)] = 10,
    print0: PathsOnly = False,
    json: options.Json = False,
    html: options.Html = None,
    preview: Preview = False,
    model: options.IndexSpec = DEFAULT,
    home: options.IndexHome = None,
    strict: options.Strict = False,
) -> None:
    """Find images and videos by text or by example.

    The first argument is the query, unless an option gives one: a text, or the path of an image or a video. Combine
    terms with + and -; the prefix 2: doubles a term's weight. Hits are ranked by cosine similarity, without the query
    itself. If a directory or one around it has an index (see `pe index`), the index is searched; other files are
    encoded first. In an index, a text also finds names and titles of files and words in images: what has all its words
    comes first. '"in quotes"' or words:TEXT finds these alone, meaning:TEXT none. Columns for --where: path, kind
    ('image' or 'video'), date ('2024-07-31' is the day), size (bytes), length (s), width, height, lat, lon and camera;
    `near 48.85,2.35 2km` holds near a place. In a pipe, the table is tab-separated.

    Examples:

        pe search "a red mug" photos
        pe search "2:dog + park - snow" photos
        pe search '"total 41,20"' photos
        pe search --image mug.jpg photos --top 20 --html mugs.html
        pe search --image clip.mp4@12s videos --where "kind = 'video' AND date >= '2024'"
        pe search --text "a cat" --text "a dog" photos 'clips/*.mp4' -m PE-Core-L14-336
        pe search "a red mug" photos --preview --min-score 0.2 --exclude raw/
        pe search "a red mug" photos -0 | xargs -0 cp -t mugs
    """
    from perception_encoder.search.index import directories_to_index, open_index, search_files
    from perception_encoder.search.terms import read_queries

    preview = check_printing(json, print0, preview)
    queries, files = read_queries(words or [], text or [], image or [], like is not None)
    index = open_index(files, model, index=home)
    indexed = home is not None or index.exists
    source = str(model.name or (index.source if indexed else default_model()))
    printing = Printing(json, print0, html, preview, demo_line(source))
    if indexed:
        result = index.search(
            [*queries, *([index.hit(like)] if like else [])],
            top,
            where=where,
            exclude=exclude or (),
            min_score=min_score,
            collapse=collapse,
            thumbnails=printing.thumbnails,
        )
    elif like or where or collapse:
        raise needs_index("--like, --where and --collapse need", files)
    elif not files:
        raise typer.BadParameter('name a directory as well, as in: pe search "a red mug" photos')
    else:
        result = search_files(queries, files, model, top, min_score=min_score, exclude=exclude or (), progress=track)
    if json or not result.skipped or len(result.skipped) < result.encoded:
        show_result(result, f"images and {'moments' if indexed else 'videos'}", min_score, printing)
    if result.encoded and (directories := " ".join(directories_to_index(files))):
        output.print_note(f"to search {directories} faster next time, run: pe index {directories}")
    output.report_left_out(result.left_out)
    output.print_demo(source)
    output.exit_with_skipped(result.skipped, result.encoded - len(result.skipped), strict)


def near_duplicates(
    files: Annotated[list[str] | None, argument("[DIRS]...", "Indexed directories [default: the current one].")] = None,
    min_score: Annotated[float, option("Minimum cosine similarity, above 0.", "COSINE", QUERY)] = 0.97,
    all_but_one: Annotated[bool, flag("--all-but-one", ALL_BUT_ONE, QUERY)] = False,
    where: Where = None,
    exclude: options.Exclude = None,
    top: Annotated[int, option("Number of groups.", panel=OUTPUT, least=1)] = 10,
    print0: PathsOnly = False,
    json: options.Json = False,
    html: options.Html = None,
    preview: Preview = False,
    model: options.IndexSpec = DEFAULT,
    home: options.IndexHome = None,
) -> None:
    """Group images that are nearly the same.

    All images and moments of the index are compared, by the cosine similarity of their embeddings; the largest groups
    come first. With --all-but-one, all groups are listed. Columns for --where: see `pe search --help`.

    Examples:

        pe near-duplicates photos
        pe near-duplicates photos more-photos --html twice.html
        pe near-duplicates photos --min-score 0.99 --all-but-one -0 | xargs -0 mv -t duplicates
    """
    from perception_encoder.formats.listing import check_paths
    from perception_encoder.search.index import open_index

    preview = check_printing(json, print0, preview)
    check_paths(files or [])
    index = open_index(files or [], model, index=home)
    if home is None and not index.exists:
        raise needs_index("near-duplicates need", files or [])
    source = str(model.name or index.source)
    printing = Printing(json, print0, html, preview, demo_line(source))
    groups = index.near_duplicates(
        min_score=min_score, all_but_one=all_but_one, where=where, exclude=exclude or (), thumbnails=printing.thumbnails
    )
    show_duplicates(groups, max(1, len(groups)) if all_but_one else top, index.model, printing)
    output.print_demo(source)


def check_printing(json: bool, print0: bool, preview: bool) -> bool:
    """Raise if options do not fit together; return whether to print thumbnails, which this terminal then can."""
    if json and print0:
        raise typer.BadParameter("--json cannot be combined with --print0")
    preview = preview and not (json or print0) and in_terminal()
    if preview:
        thumbnail_class()  # before the model is loaded
    return preview


def needs_index(what: str, files: Sequence[str]) -> typer.BadParameter:
    """Return the error for what needs an index of files that have none."""
    places = (name if os.path.isdir(name) else os.path.dirname(name) or "." for name in files or ["."])
    command = shlex.join(["pe", "index", *dict.fromkeys(places)])
    return typer.BadParameter(f"{what} an index; create one with: {command}")


@dataclass(frozen=True)
class Printing:
    """How to print hits."""

    json: bool
    paths: bool
    """Print paths only, each with a NUL byte after it."""
    html: Path | None
    """Also write this contact sheet."""
    preview: bool
    """Print thumbnails."""
    remark: str
    """A line about the model, for the contact sheet."""

    @property
    def thumbnails(self) -> bool:
        return self.preview or self.html is not None

    def write(
        self, title: str, note: str, found: SearchResult | Sequence[Sequence[Hit]], hits: Iterable[Hit], values: object
    ) -> bool:
        """Write the contact sheet, the paths of hits or their JSON, as requested; return whether to print tables."""
        if self.html is not None:
            from perception_encoder.search_page.contact_sheet import write_hits

            write_hits(self.html, title, "; ".join(filter(None, (note, self.remark))), found)
        if self.paths:
            output.print_paths(hit.path for hit in hits)
        elif self.json:
            output.print_json(values)
        return not self.paths and not self.json

    def print_rows(self, columns: Sequence[str], rows: Sequence[Sequence[object]], hits: Sequence[Hit]) -> None:
        """Print a table of hits, or with thumbnails one hit after the other."""
        if not self.preview:
            return output.print_table(columns, rows)
        from perception_encoder.search_page.contact_sheet import hit_image

        thumbnail = thumbnail_class()
        for row, hit in zip(rows, hits, strict=True):
            output.print_line("  ".join(map(str, filter(None, row))))
            if image := hit_image(hit):
                output.console.print(thumbnail(image, width="auto", height=PREVIEW_LINES))


def show_result(result: SearchResult, kinds: str, min_score: float | None, printing: Printing) -> None:
    """Print the hits of each query."""
    note = f"{result.searched} {kinds}, by {result.model}"
    tables = [
        (query.heading, [(rank, *_row(hit)) for rank, hit in enumerate(hits, 1)], hits)
        for query, hits in zip(result.queries, result.by_query, strict=True)
    ]
    as_table = printing.write("Search results", note, result, result, result.to_dict())
    if as_table and not output.console.is_terminal:
        table = ((*row, name, hit.why) for name, rows, hits in tables for row, hit in zip(rows, hits, strict=True))
        output.print_table(COLUMNS, table)
    for name, rows, hits in tables:
        if not rows:
            low = None if min_score is None else f"no match for {name}: nothing scores {min_score:g} or higher"
            output.print_note(low or f"no hits for {name}")
        elif as_table and output.console.is_terminal:
            output.print_line(name)
            shown = [column for column in range(5) if column < 2 or any(row[column] for row in rows)]
            cells = [[row[column] for column in shown] for row in rows]
            for cell, hit in zip(cells, hits, strict=True):
                remarks = [f"(+{hit.similar} similar)"] if hit.similar else []
                cell[shown.index(2)] = "  ".join([hit.path, *remarks, *filter(None, [hit.why])])
            printing.print_rows([COLUMNS[column] for column in shown], cells, hits)


def in_terminal() -> bool:
    """Return whether thumbnails can be printed: to a terminal of known size, which answers queries on stdin."""
    try:
        read, write = sys.__stdin__, sys.__stdout__
        if read is None or write is None or not (read.isatty() and write.isatty()):
            return False
        return os.get_terminal_size(write.fileno()).columns > 0
    except (OSError, ValueError):  # closed
        return False


def thumbnail_class() -> Any:
    """Return the class that prints images in this terminal, by its answers to queries; MissingExtraError without it."""
    with needs_extra("search", "textual_image"):
        from textual_image.renderable import Image
    logging.getLogger("textual_image").setLevel(logging.ERROR)  # it warns of terminals that do not tell their size
    return Image


def _row(hit: Hit) -> tuple[str, ...]:
    return f"{hit.score:.3f}", hit.path, hit.clock, hit.id if hit.row else ""


def show_duplicates(groups: Sequence[Sequence[Hit]], top: int, model: str, printing: Printing) -> None:
    """Print the `top` largest groups of near-duplicates, by the embeddings of `model`."""
    largest, note = groups[:top], f"{len(groups)} groups"
    if not groups:
        output.print_note("no near-duplicates")
    hits = list(chain(*largest))
    values = {"model": model, "groups": [[hit.to_dict() for hit in group] for group in largest]}
    if printing.write("Near-duplicates", note, largest, hits, values):
        rows = [(number, *_row(hit)) for number, group in enumerate(largest, 1) for hit in group]
        printing.print_rows(("group", "similarity", "path", "time", "id"), rows, hits)
        if len(groups) > top:
            output.print_note(f"{len(groups) - top} more groups; show them all with --top {len(groups)}")


def index(
    directories: Annotated[list[Path], argument("DIRS", "Directories; the index of each is stored in DIR/.pe-index.")],
    every: Annotated[float | None, option(EVERY, panel=VIDEO, least=0.01)] = None,
    model: options.IndexSpec = DEFAULT,
    home: options.IndexHome = None,
    rebuild: Annotated[bool, flag("--rebuild", REBUILD)] = False,
    words: Annotated[bool, flag("--words", READ_WORDS)] = False,
    exclude: options.Exclude = None,
    ray: options.Ray = None,
    verify: Annotated[bool, flag("--verify", VERIFY)] = False,
    json: options.Json = False,
    strict: options.Strict = False,
) -> None:
    """Index directories, for search and serve.

    Rerun the command to update an index, or to resume an interrupted run: only new and changed files are read, moved
    files are recognised by their content, and deleted ones are removed. Videos are split into moments at shot changes.
    Unreadable files are skipped and listed. Later updates keep the patterns of --exclude until others are given, or
    none with --exclude ''; .peignore files exclude more.

    Examples:

        pe index photos
        pe index photos --words
        pe index photos videos --every 0.5
        pe index photos -m PE-Core-L14-336 --rebuild
        pe index photos -m st:Qwen/Qwen3-VL-Embedding-2B --dimensions 1024 --rebuild
        pe index /mnt/photos --ray auto
        pe index /media/camera --index ~/indexes/camera
        pe index photos --exclude raw/ --exclude '*_small.jpg'
        pe index photos --verify
        pe search "a red mug" photos
    """
    from perception_encoder.formats.listing import check_paths
    from perception_encoder.search.index import open_index

    check_paths(directories)
    if home is not None and len(directories) > 1:
        raise typer.BadParameter("--index is for one directory; index the others separately")
    reports = {}
    new: list[InputError] = []
    known: list[InputError] = []
    for directory in directories:
        opened = open_index(directory, model, index=home, words=words or None)
        report = reports[str(directory)] = opened.update(
            every=every, rebuild=rebuild, exclude=exclude, ray=ray, verify=verify, progress=track
        )
        new += report.skipped[: len(report.skipped) - report.known]
        known += report.skipped[len(report.skipped) - report.known :]
        if not json:
            changes = f"{report.added} added, {report.moved} moved, {report.deleted} deleted"
            changes += f", words of {report.words} read" if report.words else ""
            speed = f" ({report.added / report.seconds:.1f} files/s)" if report.added else ""
            output.print_line(
                f"{directory}: {changes}, {report.unchanged} unchanged; {report.rows} images and moments{speed}"
            )
    if json:
        values = {name: report.to_dict() for name, report in reports.items()}
        output.print_json(
            {"folders": values, "skipped": list(chain(*(value.pop("skipped") for value in values.values())))}
        )
    output.report_left_out(sum((Counter(report.left_out) for report in reports.values()), Counter()))
    output.print_demo(*(report.source for report in reports.values()))
    used = sum(report.total - len(report.skipped) for report in reports.values())
    output.exit_with_skipped([*new, *known], used, strict, len(known))
