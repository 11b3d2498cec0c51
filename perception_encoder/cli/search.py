"""`pe search` and `pe index`: search directories by texts, images and videos, and index them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import OUTPUT, QUERY, VIDEO, argument, flag, option
from perception_encoder.cli.progress import late_progress

if TYPE_CHECKING:
    from perception_encoder.errors import InputError
    from perception_encoder.search.index import Answer
    from perception_encoder.search.ranking import Hit
    from perception_encoder.search.terms import Query

WORDS = "The query, then directories, globs, files, tables, tars or URLs [default: the current directory's index]."
THRESHOLD = "Minimum cosine similarity of near-duplicates [default: 0.97]."
ALL_BUT_ONE = "With --near-duplicates: of each group, list all images but the one with the most pixels."
RAY = (
    "Read files on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for one on this machine. "
    "All machines must see the directories under the same paths."
)
REBUILD = "Build the index anew; without -m or --every, with the old index's settings."
COLUMNS = ("rank", "score", "probability", "path", "time", "id", "query")
"""Columns of the piped table, which always has all of them, so that scripts can rely on them."""


def search(
    words: Annotated[list[str] | None, argument("[QUERY] [FILES]...", WORDS)] = None,
    text: Annotated[list[str] | None, option("Search by this text; repeat for more queries.", "TEXT", QUERY)] = None,
    image: Annotated[list[str] | None, option("Search by an image or a video.", "FILE", QUERY)] = None,
    video: Annotated[list[str] | None, option("Search by a video, or a moment: clip.mp4@12s.", "FILE", QUERY)] = None,
    like: Annotated[str | None, option("Search by an indexed image or moment.", "ID", QUERY)] = None,
    near_duplicates: Annotated[bool, flag("--near-duplicates", "List near-duplicates instead.", QUERY)] = False,
    threshold: Annotated[float | None, option(THRESHOLD, "COSINE", QUERY, least=0)] = None,
    all_but_one: Annotated[bool, flag("--all-but-one", ALL_BUT_ONE, QUERY)] = False,
    where: Annotated[str | None, option("Search only indexed rows that match this condition.", "SQL", QUERY)] = None,
    top: Annotated[int, option("Number of hits.", panel=OUTPUT, least=1)] = 10,
    paths_only: Annotated[bool, flag("--paths-only", "Print only the paths of the hits.", OUTPUT)] = False,
    print0: Annotated[bool, flag("--print0 -0", "Like --paths-only, for `xargs -0`.", OUTPUT)] = False,
    json: options.Json = False,
    html: options.Html = None,
    model: options.IndexModel = None,
    home: options.IndexHome = None,
    strict: options.Strict = False,
) -> None:
    """Find images and videos by text or by example.

    The first argument is the query, unless an option gives one. Combine terms with + and -; the prefix 2: doubles a
    term's weight. The path of an image or a video searches by example. Hits are ranked by cosine similarity, and leave
    out the query's own file. A directory that has an index (see `pe index`), or lies in one that has, is searched
    through it; other files are encoded first. Columns for --where: path, kind ('image' or 'video'), date
    ('2024-07-31T18:05:00'), size (bytes), length (s), width, height. In a pipe, the table is tab-separated.

    Examples:

        pe search "a red mug" photos
        pe search "2:dog" - "snow" photos
        pe search --image mug.jpg photos --top 20 --html mugs.html
        pe search --video clip.mp4@12s videos --where "kind = 'video' AND date >= '2024'"
        pe search --text "a cat" --text "a dog" photos 'clips/*.mp4' -m PE-Core-L14-336
        pe search --near-duplicates photos --html twice.html
        pe search --near-duplicates --threshold 0.99 --all-but-one photos -0 | xargs -0 mv -t duplicates
        pe search "a red mug" photos -0 | xargs -0 cp -t mugs
    """
    from perception_encoder.search import index as answers
    from perception_encoder.search.ranking import SIMILAR, all_but_largest, find_duplicates
    from perception_encoder.search.terms import row_query

    if json and (paths_only or print0):
        raise typer.BadParameter("--json cannot be combined with --paths-only or --print0")
    if not near_duplicates and (all_but_one or threshold is not None):
        raise typer.BadParameter("--threshold and --all-but-one need --near-duplicates")
    only_files = near_duplicates or like is not None
    queries, files = read_words(words or [], text or [], [*(image or []), *(video or [])], only_files)
    indexes = answers.find_indexes(files, home, model)
    source = model or (indexes[0].settings["source"] if indexes else default_model.default_model())
    printing = Printing(json, paths_only, print0, html, default_model.demo_line(source, model))
    if indexes and near_duplicates:
        groups = find_duplicates(indexes, where, html is not None, SIMILAR if threshold is None else threshold)
        if all_but_one:
            groups = [spare for group in groups if (spare := all_but_largest(group))]
            top = max(1, len(groups))
        show_duplicates(groups, top, indexes[0].settings["model"], printing)
        return default_model.print_demo(source, option=model)
    if indexes:
        queries += [row_query(answers.find_row(indexes, like))] if like else []
        answer = answers.search_indexes(indexes, queries, model, top, where, html is not None)
    else:
        _check_plain_files(files, bool(like or where or near_duplicates))
        with late_progress("encoding files") as begin:
            answer = answers.search_files(files, queries, source, top, begin)
    if json or not answer.failures or len(answer.failures) < answer.total:
        show_answer(answer, printing)
    if answer.total and (directories := " ".join(answers.directories_to_index(files))):
        output.print_note(f"for a faster search of {directories} next time: pe index {directories}")
    output.report_left_out(answer.left_out)
    default_model.print_demo(source, option=model)
    raise typer.Exit(output.input_status(answer.failures, answer.total, strict))


def _check_plain_files(files: list[str], needs_index: bool) -> None:
    if needs_index:
        raise typer.BadParameter("--like, --where and --near-duplicates need an index; make one with: pe index DIR")
    if not files:
        raise typer.BadParameter('name a directory too, as in: pe search "a red mug" photos')


def read_words(words: list[str], texts: list[str], media: list[str], only_files: bool) -> tuple[list[Query], list[str]]:
    """Return the queries and the files of a command; with `only_files`, or queries in options, all words are files."""
    from perception_encoder.search.terms import media_query, parse_words, split_words, text_query

    queries = [*map(text_query, texts), *map(media_query, media)]
    if queries or only_files or not words:
        check_files(words)
        return queries, words
    query_words, files = split_words(words)
    queries = [parse_words(query_words)]
    check_files(files, query_words[0])
    return queries, files


def check_files(files: list[str], first_word: str = "") -> None:
    """Raise MediaNotFoundError for a missing file, BadParameter if query and files were swapped."""
    from perception_encoder.errors import MediaNotFoundError
    from perception_encoder.inference.listing import check_paths

    try:
        check_paths(files)
    except MediaNotFoundError as error:
        if first_word and Path(first_word).exists():
            raise typer.BadParameter(
                f'{error}; the query comes first, as in: pe search "{error.source}" {first_word}'
            ) from None
        raise


@dataclass(frozen=True)
class Printing:
    """How to print hits."""

    json: bool
    paths: bool
    """Print paths only."""
    null: bool
    """Print paths only, each followed by a NUL byte."""
    html: Path | None
    """Also write this contact sheet."""
    remark: str
    """A line about the model, for the contact sheet."""


def show_answer(answer: Answer, printing: Printing) -> None:
    """Print the hits of each query."""
    from perception_encoder.search.web.contact_sheet import name_query, query_sections, write_contact_sheet

    if printing.html is not None:
        note = "; ".join(filter(None, (answer.gallery, printing.remark)))
        sections = query_sections(answer.queries, answer.hits, printing.html)
        write_contact_sheet(printing.html, "Search results", note, sections)
    tables = {name_query(query): list(_rows(hits)) for query, hits in zip(answer.queries, answer.hits, strict=True)}
    if printing.paths or printing.null:
        output.print_paths((hit.item.path for hit in chain(*answer.hits)), printing.null)
    elif printing.json:
        output.print_json(_answer_as_json(answer))
    elif not output.console.is_terminal:
        output.print_table(COLUMNS, ((*row, name) for name, rows in tables.items() for row in rows))
    else:
        for name, rows in tables.items():
            if not rows:
                continue
            output.print_line(name)
            columns = [column for column in range(6) if column < 2 or any(row[column] for row in rows)]
            output.print_table([COLUMNS[each] for each in columns], ([row[each] for each in columns] for row in rows))
    for name, rows in tables.items():
        if not rows:
            output.print_note(f"no hits for {name}")


def _rows(hits: Sequence[Hit]) -> Iterator[tuple[object, ...]]:
    for rank, hit in enumerate(hits, 1):
        chance = "" if hit.probability is None else f"{hit.probability:.0%}"
        yield (rank, f"{hit.score:.3f}", chance, hit.item.path, _time(hit), hit.row.id if hit.row else "")


def _time(hit: Hit) -> str:
    from perception_encoder.search.web.contact_sheet import clock

    return "" if hit.time is None else clock(hit.time)


def _answer_as_json(answer: Answer) -> dict[str, Any]:
    """Return the hits of each query, under its kind: `text`, `image`, `video`, or `query` for several terms.

    `probability`: that the hit shows what the query says; null if it is unknown.
    """
    queries = [
        {query.kind: query.name, "hits": list(map(_hit_as_json, hits))}
        for query, hits in zip(answer.queries, answer.hits, strict=True)
    ]
    skipped = [{"path": failure.source, "reason": failure.reason} for failure in answer.failures]
    return {"model": answer.model, "queries": queries, "skipped": skipped, "left_out": dict(answer.left_out)}


def _hit_as_json(hit: Hit) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": hit.item.id, "path": hit.item.path, "score": hit.score}
    entry |= {"probability": hit.probability, "time": hit.time}
    if hit.row is not None:
        entry |= {name: getattr(hit.row, name) for name in ("id", "kind", "start", "stop", "date", "size")}
    return entry


def show_duplicates(groups: Sequence[Sequence[Hit]], top: int, model: str, printing: Printing) -> None:
    """Print the `top` largest groups of near-duplicates, by the embeddings of `model`."""
    from perception_encoder.search.web.contact_sheet import duplicate_sections, write_contact_sheet

    largest = groups[:top]
    if not groups:
        output.print_note("no near-duplicates")
    if printing.html is not None:
        sections = duplicate_sections(largest, printing.html)
        note = "; ".join(filter(None, (f"{len(groups)} groups", printing.remark)))
        write_contact_sheet(printing.html, "Near-duplicates", note, sections)
    if printing.paths or printing.null:
        return output.print_paths((hit.item.path for hit in chain(*largest)), printing.null)
    if printing.json:
        return output.print_json({"model": model, "groups": [list(map(_hit_as_json, group)) for group in largest]})
    rows = [
        (number, f"{hit.score:.3f}", hit.item.path, _time(hit), hit.row.id if hit.row else "")
        for number, group in enumerate(largest, 1)
        for hit in group
    ]
    output.print_table(("group", "similarity", "path", "time", "id"), rows)
    if len(groups) > top:
        output.print_note(f"{len(groups) - top} more groups; show them all with --top {len(groups)}")


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
    from perception_encoder.search.storage.cluster import on_cluster
    from perception_encoder.search.storage.update import read_here, update_index, writable_index

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
