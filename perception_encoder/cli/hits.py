"""How hits are shown: a table in the terminal, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_encoder.cli import output

if TYPE_CHECKING:
    from perception_encoder.search.query.answers import Answer
    from perception_encoder.search.query.search import Hit


def as_json(answer: Answer) -> dict[str, Any]:
    """The hits of each query, under what was looked for: `text`, `image`, `video`, or `query` for several terms.

    `probability`: of a hit that it shows this; null if that cannot be told.
    """
    queries = [
        {query.kind: query.name, "hits": list(map(_hit_as_json, hits))}
        for query, hits in zip(answer.queries, answer.hits, strict=True)
    ]
    skipped = [{"path": failure.source, "reason": failure.reason} for failure in answer.failures]
    return {"model": answer.model, "queries": queries, "skipped": skipped}


def _hit_as_json(hit: Hit) -> dict[str, Any]:
    told: dict[str, Any] = {"id": hit.item.id, "path": hit.item.path, "score": hit.score}
    told |= {"probability": hit.probability, "time": hit.time}
    if hit.row is not None:
        told |= {name: getattr(hit.row, name) for name in ("id", "kind", "start", "stop", "date", "size")}
    return told


def show(answer: Answer, json: bool, html: Path | None, demo: str = "") -> None:
    """Print the hits, as a table for each query or as JSON, and write a contact sheet where one is asked for.

    `demo`: a line on the model that stands below them.
    """
    from perception_encoder.search.web.pages import clock, write_contact_sheet
    from perception_encoder.search.web.sheets import name_query, query_sections

    if html is not None:
        note = answer.gallery + (f"; {demo}" if demo else "")
        write_contact_sheet(html, "Found", note, query_sections(answer.queries, answer.hits, html))
    if json:
        output.print_json(as_json(answer))
        if demo:
            output.print_note(demo)
        return
    for query, hits in zip(answer.queries, answer.hits, strict=True):
        output.print_line(name_query(query))
        rows = []
        for rank, hit in enumerate(hits, 1):
            time = "" if hit.time is None else clock(hit.time)
            chance = [] if hit.probability is None else [f"{hit.probability:.0%}"]
            rows.append((rank, f"{hit.score:.3f}", *chance, hit.item.id, time, *([hit.row.id] if hit.row else [])))
        chance = ["probability"] if any(hit.probability is not None for hit in hits) else []
        indexed = ["id"] if any(hit.row for hit in hits) else []
        output.print_table(("rank", "score", *chance, "file", "time", *indexed), rows)
    if demo:
        output.print_line(demo)


def show_duplicates(groups: Sequence[Sequence[Hit]], top: int, json: bool, html: Path | None) -> None:
    """Print the `top` largest groups of near-duplicates, and write a contact sheet of them where it is asked for."""
    from perception_encoder.search.web.pages import clock, write_contact_sheet
    from perception_encoder.search.web.sheets import duplicate_sections

    if html is not None:
        sections = duplicate_sections(groups[:top], html)
        write_contact_sheet(html, "Near-duplicates", f"{len(groups)} groups", sections)
    if json:
        output.print_json({"groups": [list(map(_hit_as_json, group)) for group in groups[:top]]})
        return
    table = [
        (number, f"{hit.score:.3f}", hit.item.id, "" if hit.time is None else clock(hit.time), hit.row and hit.row.id)
        for number, group in enumerate(groups[:top], 1)
        for hit in group
    ]
    output.print_table(("group", "likeness", "file", "time", "id"), table)
    if len(groups) > top:
        output.print_note(f"{len(groups) - top} groups more; see them with: --top {len(groups)}")
