"""`pe video-dataset categorise`: a table of categories, and their counts."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.video_dataset.categories import CATEGORIES
from perception_encoder.video_dataset.outcomes import read_outcomes
from tests.video_dataset.clips import small_dataset


def test_categories_of_the_built_in_model(run_pe, tmp_path: Path) -> None:
    data, features, out = small_dataset(tmp_path / "clips", 2), tmp_path / "features", tmp_path / "categories.csv"
    assert run_pe("video-dataset", "features", data, "-o", features, "-m", "builtin").status == 0
    run = run_pe("video-dataset", "categorise", features, "-m", "builtin", "-o", out)
    assert run.status == 0 and run.stdout.startswith("category\tvideos\n"), run.stderr
    rows = read_outcomes(out, "category", "probability")
    assert set(rows) == {"train/v0", "train/v1"} and {row["category"] for row in rows.values()} <= CATEGORIES.keys()
