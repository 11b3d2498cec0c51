"""The page of the training benchmark."""

from __future__ import annotations

import statistics
from typing import Any

RATIO = 1.5  # what ours should be of open_clip's speed
PAIRS = {"nano, 96 px": 200.0, "nano, 96 px, text fixed": 300.0}  # a second, that ours should train


def page(result: dict[str, Any]) -> str:
    """The results page of a run's JSON."""
    return "\n".join(
        [
            "# Training speed",
            "",
            f"{result['machine']}, {result['dtype']}. Written by `{result['command']}`.",
            "",
            "Pairs a second, medians; nano in steps of 256 pairs of its recipe, PE-Core-B16 in steps of 16. With its "
            "text fixed, ours looks up what it encoded before the run; open_clip's text tower is locked and encodes.",
            "",
            f"| step | ours | open_clip's model and loss | ratio | aim {RATIO:g}x | aim, pairs/s |",
            "|---|---|---|---|---|---|",
            *(_row(title, speeds) for title, speeds in result["speeds"].items()),
            "",
            *_profile(result["profile"], result["dtype"]),
            "",
        ]
    )


def _row(title: str, speeds: dict[str, list[float]]) -> str:
    ours, theirs = (statistics.median(speeds[name]) for name in ("ours", "open_clip"))
    aim = PAIRS.get(title)
    pairs = "–" if aim is None else f"{aim:g} {_mark(ours >= aim)}"
    return f"| {title} | {ours:.3g} | {theirs:.3g} | {ours / theirs:.2f} | {_mark(ours >= RATIO * theirs)} | {pairs} |"


def _mark(reached: bool) -> str:
    return "✓" if reached else "✗"


def _profile(figures: dict[str, Any], dtype: str) -> list[str]:
    """What bounds a step."""
    limits, reached = figures["layer_products"], figures["flops_a_second"]
    limit, b16 = limits[dtype], figures["b16"]
    most = {name: limit / figures[name] for name in ("flops_a_pair", "flops_a_pair_text_fixed")}
    return [
        "## What bounds it",
        "",
        "Our step of nano at 96 px, both towers trained, by kind of operation:",
        "",
        "| kind | share of the time |",
        "|---|---|",
        *(f"| {kind} | {100 * share:.0f} % |" for kind, share in figures["shares"].items()),
        "",
        "The matrix products of a block's layers alone, forward and backward, on the same shapes: "
        f"{limits['float32'] / 1e9:.0f} GFLOP/s in float32, {limits['bfloat16'] / 1e9:.0f} in bfloat16. The step does "
        f"{figures['flops_a_pair'] / 1e9:.2f} GFLOP a pair, {reached / 1e9:.0f} GFLOP/s: "
        f"{100 * reached / limit:.0f} % of that. A step that were nothing but such products in {dtype} would train "
        f"{most['flops_a_pair']:.0f} pairs/s, with its text fixed {most['flops_a_pair_text_fixed']:.0f}.",
        "",
        f"PE-Core-B16 takes {b16['flops_a_pair'] / 1e9:.0f} GFLOP a pair; its layers' products alone run at "
        f"{b16['layer_products'] / 1e9:.0f} GFLOP/s, which would be {b16['layer_products'] / b16['flops_a_pair']:.2f} "
        "pairs/s.",
        "",
        f"A fixed text tower's captions are encoded before the run, {figures['captions_a_second']:.0f} a second.",
    ]
