"""The page of the training benchmark."""

from __future__ import annotations

import statistics
from textwrap import wrap
from typing import Any

RATIO = 1.5  # what ours should be of open_clip's speed
PAIRS = {"nano, 96 px": 200.0, "nano, 96 px, text fixed": 300.0}  # a second, that ours should train


def page(result: dict[str, Any]) -> str:
    """The results page of a run's JSON."""
    text = (
        f"Written by `{result['command']}`; {result['machine']}, {result['dtype']}. Pairs a second, medians; nano in "
        "steps of 256 pairs of its recipe, PE-Core-B16 in steps of 16. With its text fixed, ours looks up what it "
        "encoded before the run; open_clip's text tower is locked and encodes. "
        + _bounds(result["profile"], result["dtype"])
    )
    return "\n".join(
        [
            "# Training speed",
            "",
            *wrap(text, 118, break_on_hyphens=False),
            "",
            f"| step | ours | open_clip's model and loss | ratio | aim {RATIO:g}x | aim, pairs/s |",
            "|---|---|---|---|---|---|",
            *(_row(title, speeds) for title, speeds in result["speeds"].items()),
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


def _bounds(profile: dict[str, Any], dtype: str) -> str:
    """What bounds a step."""
    limit, reached, b16 = profile["layer_products"][dtype], profile["flops_a_second"], profile["b16"]
    most = {name: limit / profile[name] for name in ("flops_a_pair", "flops_a_pair_text_fixed")}
    kind, share = max(profile["shares"].items(), key=lambda each: each[1])
    return (
        f"Of our step of nano at 96 px {100 * share:.0f} % is {kind}; it does {reached / 1e9:.0f} GFLOP/s, "
        f"{100 * reached / limit:.0f} % of what the products of a block's layers alone reach in {dtype}. A step of "
        f"nothing but such products would train {most['flops_a_pair']:.0f} pairs/s, with its text fixed "
        f"{most['flops_a_pair_text_fixed']:.0f}, PE-Core-B16 {b16['layer_products'] / b16['flops_a_pair']:.2f}."
    )
