"""`pe data`: the group of commands that make training data."""

from __future__ import annotations

from perception_encoder.cli.groups import lazy_group

COMMANDS = {
    "Commands": {
        "shards": "data.shards",
        "prepare": "data.prepare",
        "masks": "data.masks",
    },
}

app = lazy_group(COMMANDS)


@app.callback()
def data() -> None:
    """Make training data.

    Writes WebDataset tars for `pe train`, and caches a mask teacher's output for a spatial alignment.

    Examples:

        pe data shards photos/ -o shards/
        pe data prepare datasets
        pe data masks --data photos -o masks.sqlite
    """
