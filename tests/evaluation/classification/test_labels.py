"""Labels as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.classification.labels import read_labels


@pytest.mark.parametrize("given", ["cat,dog,other pet", " cat , dog,, other pet,cat,"])
def test_labels_with_commas_between(given: str) -> None:
    assert read_labels(given) == ["cat", "dog", "other pet"]


def test_labels_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffcat, tabby\r\n\r\nhund\u00fc\r\n".encode())
    assert read_labels(f"@{path}") == ["cat, tabby", "hund\u00fc"]
    path.write_bytes(b"caf\xe9\nbar\n")
    with pytest.raises(ConfigError, match="cannot be read: it is not UTF-8 text"):
        read_labels(f"@{path}")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_labels("@missing.txt")


@pytest.mark.parametrize("given", ["", "cat", "cat,cat", "labels.txt"])
def test_one_label_is_no_choice(given: str) -> None:
    with pytest.raises(ConfigError, match="at least two labels"):
        read_labels(given)
