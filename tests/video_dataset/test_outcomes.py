"""Tables of scores, selections and categories come back from every format."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.video_dataset.outcomes import OUTCOME_SUFFIXES, read_outcomes, write_outcomes


@pytest.mark.parametrize("suffix", OUTCOME_SUFFIXES)
def test_rows_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_outcomes(path, [{"key": "train/ä", "score": 1.5}, {"key": 'b,"c', "score": 2.0}])
    rows = read_outcomes(path, "score")
    assert {key: float(row["score"]) for key, row in rows.items()} == {"train/ä": 1.5, 'b,"c': 2.0}


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.parquet, \.csv or \.jsonl"):
        write_outcomes(tmp_path / "a.xlsx", [])
    write_outcomes(tmp_path / "a.jsonl", [{"key": "a"}, {"key": "a"}])
    with pytest.raises(DataError, match="is there twice"):
        read_outcomes(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="`score` is missing"):
        read_outcomes(tmp_path / "a.jsonl", "score")
