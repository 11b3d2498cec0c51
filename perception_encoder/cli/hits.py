"""How hits are shown: a table in the terminal, or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perception_encoder.cli import output

if TYPE_CHECKING:
    from perception_encoder.search.asking import Answer
    from perception_encoder.search.hits import Hit
    from perception_encoder.search.index import Index


def as_json(answer: Answer) -> dict[str, Any]:
    """The hits of each query, under what was looked for: `text`, `image`, `video`, or `query` for several terms.

    `probability`: of a hit that it shows this; of a query that anything here does.
    """
    from perception_encoder.search.hits import match_probability
    from perception_encoder.search.sheets import say_nothing_matches

    queries = [
        {
            query.kind: query.name,
            "probability": match_probability(hits),
            "nothing_matches": bool(say_nothing_matches(hits)),
            "hits": list(map(_hit_as_json, hits)),
        }
        for query, hits in zip(answer.queries, answer.hits, strict=True)
    ]
    skipped = [{"path": failure.source, "reason": failure.reason} for failure in answer.failures]
    return {"model": answer.model, "queries": queries, "skipped": skipped}


def _hit_as_json(hit: Hit) -> dict[str, Any]:
    told: dict[str, Any] = {"id": hit.item.id, "path": hit.item.path, "score": hit.score}
    told |= {"probability": hit.probability, "time": hit.time}
    if hit.row is not None:
        told |= {name: getattr(hit.row, name) for name in ("id", "kind", "start", "stop", "date")}
    return told


def show(answer: Answer, json: bool) -> None:
    """Print the hits, as a table for each query (hits of an index bear their ids) or as JSON."""
    if json:
        output.print_json(as_json(answer))
        return
    from perception_encoder.search.pages import clock
    from perception_encoder.search.sheets import name_query, say_nothing_matches

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
        if nothing := say_nothing_matches(hits):
            output.print_note(f"{name_query(query)}: {nothing}")


def show_duplicates(index: Index, where: str | None, json: bool) -> None:
    """Print groups of near-duplicates in an index."""
    import numpy as np

    from perception_encoder.search.duplicates import group_duplicates
    from perception_encoder.search.pages import clock

    rows = index.rows(where)
    vectors = np.stack([row.vector for row in rows]) if rows else np.empty((0, 1), np.float32)
    groups = [[rows[number] for number in group] for group in group_duplicates(vectors)]
    if json:
        named = ("path", "id", "start", "stop", "size")
        output.print_json({"groups": [[{name: getattr(row, name) for name in named} for row in g] for g in groups]})
        return
    table = [
        (number, f"{row.vector @ group[0].vector:.3f}", row.path, "" if row.time is None else clock(row.time), row.id)
        for number, group in enumerate(groups, 1)
        for row in group
    ]
    output.print_table(("group", "likeness", "file", "time", "id"), table)
