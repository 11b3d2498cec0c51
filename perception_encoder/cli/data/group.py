"""`pe data`: the group of commands that make training data."""

from __future__ import annotations

from perception_encoder.cli.groups import lazy_group

app = lazy_group({name: f"perception_encoder.cli.data.{name}" for name in ("shards", "prepare", "scenes", "documents")})


@app.callback()
def data() -> None:
    """Make training data.

    All commands but `documents` write WebDataset tars, for `pe train`.

    Examples:

        pe data shards photos/ -o shards/
        pe data prepare datasets
        pe data scenes -o scenes --count 200
        pe data documents -o documents --count 200
    """
