"""`pe search`: find images and videos by text or by example."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import default_model, hits, options, output
from perception_encoder.cli.options import OUTPUT, QUERY, argument, flag, option
from perception_encoder.cli.progress import late_progress

if TYPE_CHECKING:
    from perception_encoder.search.query.terms import Query

WORDS = "The query, then directories, globs, files, tables, tars or URLs [default: the current directory's index]."

THRESHOLD = "Minimum cosine similarity of near-duplicates [default: 0.97]."
ALL_BUT_ONE = "With --near-duplicates: of each group, list all images but the one with the most pixels."


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
    from perception_encoder.search.query import answers
    from perception_encoder.search.query.duplicates import SIMILAR, all_but_largest, find_duplicates
    from perception_encoder.search.query.terms import row_query

    if json and (paths_only or print0):
        raise typer.BadParameter("--json cannot be combined with --paths-only or --print0")
    if not near_duplicates and (all_but_one or threshold is not None):
        raise typer.BadParameter("--threshold and --all-but-one need --near-duplicates")
    only_files = near_duplicates or like is not None
    queries, files = read_words(words or [], text or [], [*(image or []), *(video or [])], only_files)
    indexes = answers.find_indexes(files, home, model)
    source = model or (indexes[0].settings["source"] if indexes else default_model.default_model())
    printing = hits.Printing(json, paths_only, print0, html, default_model.demo_line(source, model))
    if indexes and near_duplicates:
        groups = find_duplicates(indexes, where, html is not None, SIMILAR if threshold is None else threshold)
        if all_but_one:
            groups = [spare for group in groups if (spare := all_but_largest(group))]
            top = max(1, len(groups))
        hits.show_duplicates(groups, top, indexes[0].settings["model"], printing)
        return default_model.print_demo(source, option=model)
    if indexes:
        queries += [row_query(answers.find_row(indexes, like))] if like else []
        answer = answers.search_indexes(indexes, queries, model, top, where, html is not None)
    else:
        _check_plain_files(files, bool(like or where or near_duplicates))
        with late_progress("encoding files") as begin:
            answer = answers.search_files(files, queries, source, top, begin)
    if json or not answer.failures or len(answer.failures) < answer.total:
        hits.show_answer(answer, printing)
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
    from perception_encoder.search.query.terms import media_query, parse_words, split_words, text_query

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
