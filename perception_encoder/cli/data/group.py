"""`pe data`: the group of commands that make training data."""

from __future__ import annotations

from perception_encoder.cli.groups import lazy_group

COMMANDS = {
    "Commands": {
        "shards": "data.shards",
        "prepare": "data.prepare",
        "furniture": "data.furniture",
        "scenes": "data.scenes",
        "documents": "data.documents",
        "masks": "data.masks",
    },
}

app = lazy_group(COMMANDS)


@app.callback()
def data() -> None:
    """Make training data.

    Writes WebDataset tars for `pe train`, questions on `documents`, and `masks` for a spatial alignment; `furniture`
    downloads models for `scenes`.

    Examples:

        pe data shards photos/ -o shards/
        pe data prepare datasets
        pe data scenes -o scenes --count 200
        pe data documents -o documents --count 200
    """
