"""Small data for the experiments in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.outcomes import PHOTOS, Outcome, Outcomes
from experiments.reproduction import Paths
from tests.evaluation.colours import write_colours


def outcomes(right: np.ndarray) -> Outcomes:
    """Outcomes of one task on three sets of images."""
    keys, labels = tuple(map(str, range(len(right)))), ("a",) * len(right)
    return {name: [Outcome("food", keys, labels, right)] for name in (PHOTOS, "grey", "turned")}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    for split in ("train", "test"):
        write_colours(tmp_path / "photos" / f"{split}.tar", "flowers", ["red rose", "green rose", "blue rose"] * 4)
    write_colours(tmp_path / "drawings" / "unseen.tar", "openmoji", ["red hat", "blue hat", "green hat"])
    write_colours(tmp_path / "drawings" / "train.tar", "noto", ["red hat"])
    return Paths(
        photos=tmp_path / "photos", drawings=tmp_path / "drawings", runs=tmp_path / "runs", result=tmp_path / "r.json"
    )
