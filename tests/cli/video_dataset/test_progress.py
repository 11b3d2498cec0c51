"""`pe video-dataset progress`: a table, and JSON."""

from __future__ import annotations

import json
from pathlib import Path

from perception_encoder.cli.annotation import describe_agreement
from perception_encoder.video_dataset.annotation.progress import Agreement


def test_the_table(run_pe, annotated: Path) -> None:
    run = run_pe("video-dataset", "progress", annotated)
    header, row = run.stdout.splitlines()
    assert header.split("\t") == ["name", "origin", "done", "last hour", "seconds each", "skipped", "reviewed"]
    assert row.split("\t") == ["anna", "human", "1", "1", "60", "0", "0"]
    assert "1 of 3 videos done, 0 begun, 0 skipped, 0 reviewed; about 0.0 hours of work left" in run.stderr


def test_json(run_pe, annotated: Path) -> None:
    state = json.loads(run_pe("video-dataset", "progress", annotated, "--json").stdout)
    assert (state["videos"], state["done"], state["agreement"]["videos"]) == (3, 1, 0)


def test_agreement_in_a_line() -> None:
    agreement = Agreement(videos=2, similarity=0.5, words=None, ratings=0.25, within_one=1.0)
    assert describe_agreement(agreement) == (
        "agreement on 2 videos: words in common 0.50, alpha of ratings 0.25, ratings within 1 1.00"
    )
