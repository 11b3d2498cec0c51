"""`pe search`: find pictures and videos by what they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception_encoder.cli import default_model, hits, output
from perception_encoder.cli.progress import late_progress

if TYPE_CHECKING:
    from perception_encoder.search.query.terms import Query

app = typer.Typer()

WORDS = "What to look for, and where: a folder with an index, or folders, globs, files, tables, tars, URLs."
HOME = "Directory that holds the index, if it is not in the folder."


@app.command()
def search(
    words: Annotated[list[str] | None, typer.Argument(metavar="[TERM [+|- TERM]...] FILES...", help=WORDS)] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to look for; may be repeated.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="A picture or clip to look for the like of.")] = None,
    video: Annotated[list[str] | None, typer.Option(help="A clip, or a moment of one: clip.mp4@12s.")] = None,
    like: Annotated[str | None, typer.Option(help="The id of an indexed picture or moment.")] = None,
    near_duplicates: Annotated[bool, typer.Option("--near-duplicates", help="Group what is nearly the same.")] = False,
    where: Annotated[str | None, typer.Option(help="A condition in SQL on an index's columns.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many hits, or groups of near-duplicates, to show.")] = 10,
    model: Annotated[str | None, typer.Option(help=default_model.INDEX_OPTION)] = None,
    home: Annotated[Path | None, typer.Option("--index", metavar="DIR", help=HOME)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the hits as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a contact sheet of the hits.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help=output.STRICT)] = False,
) -> None:
    """Find pictures, videos and moments of videos, by a text or by example.

    The first word is the query, unless an option says what to look for. Further terms follow it after + or -, and 2:
    before a term counts it twice; a term that is a picture's or clip's path stands for what that shows. Hits come best
    first, by cosine similarity. The query's own file is left out. Folders that all have an index (`pe index`), or are
    inside one that has, are searched by it, else all is encoded. --where knows path, kind ('image' or 'video'), date
    ('2024-07-31T18:05:00'), size (bytes), length (s), width, height.

    Examples:

        pe search "a red mug" photos
        pe search "2:dog" - "snow" photos
        pe search --image mug.jpg photos --top 20 --html mugs.html
        pe search --video clip.mp4@12s videos --where "kind = 'video' AND date >= '2024'"
        pe search --text "a cat" --text "a dog" photos 'clips/*.mp4' --model PE-Core-L14-336
        pe search --near-duplicates photos more-photos --html twice.html
        pe search "a red mug" photos --json | jq -r '.queries[0].hits[].path'
    """
    from perception_encoder.search.query import answers
    from perception_encoder.search.query.duplicates import find_duplicates
    from perception_encoder.search.query.terms import row_query

    media, files_alone = [*(image or []), *(video or [])], near_duplicates or like is not None
    queries, files = read_words(words or [], text or [], media, files_alone)
    indexes = answers.find_indexes(files, home, model)
    source = model or (indexes[0].settings["source"] if indexes else default_model.default_model())
    if indexes and near_duplicates:
        return hits.show_duplicates(find_duplicates(indexes, where, html is not None), top, json, html)
    if indexes:
        queries += [row_query(answers.find_row(indexes, like))] if like else []
        answer = answers.search_indexes(indexes, queries, model, top, where, html is not None)
    elif like or where or near_duplicates:
        raise typer.BadParameter("--like, --where and --near-duplicates need an index; make one with: pe index FOLDER")
    elif not files:
        raise typer.BadParameter('name a folder too, as in: pe search "a red mug" photos')
    else:
        with late_progress("looking at files") as begin:
            answer = answers.search_files(files, queries, source, top, begin)
    if json or not answer.failures or len(answer.failures) < answer.total:
        hits.show(answer, json, html, default_model.demo_line(source, model))
    if answer.total and (folders := " ".join(answers.folders_to_index(files))):
        output.print_note(f"to search {folders} in a moment the next time: pe index {folders}")
    raise typer.Exit(output.input_status(answer.failures, answer.total, strict))


def read_words(
    words: list[str], texts: list[str], media: list[str], files_alone: bool
) -> tuple[list[Query], list[str]]:
    """The queries and the files of a command; with `files_alone`, or queries in options, all words are files."""
    from perception_encoder.search.query.terms import media_query, parse_words, split_words, text_query

    queries = [*map(text_query, texts), *map(media_query, media)]
    if queries or files_alone or not words:
        check_files(words)
        return queries, words
    typed, files = split_words(words)
    queries = [parse_words(typed)]
    check_files(files, typed[0])
    return queries, files


def check_files(files: list[str], first_word: str = "") -> None:
    """MediaNotFoundError unless all files exist; BadParameter if query and files were swapped."""
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
