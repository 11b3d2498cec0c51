"""How the hits of `pe search` are printed: tables, paths, JSON or a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_encoder.cli import output

if TYPE_CHECKING:
    from perception_encoder.search.query.answers import Answer
    from perception_encoder.search.query.search import Hit

COLUMNS = ("rank", "score", "probability", "path", "time", "id", "query")
"""Columns of the piped table, which always has all of them, so that scripts can rely on them."""


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
    from perception_encoder.search.web.pages import write_contact_sheet
    from perception_encoder.search.web.sheets import name_query, query_sections

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
    from perception_encoder.search.web.pages import clock

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
    from perception_encoder.search.web.pages import write_contact_sheet
    from perception_encoder.search.web.sheets import duplicate_sections

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
