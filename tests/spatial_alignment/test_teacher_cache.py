"""The cache of a mask teacher: what it belongs to, and what survives an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.spatial_alignment.mask_teachers import TeacherCache

SETTINGS = {"teacher": "t", "seed": 0, "augmentation": {"scale": (0.1, 1.0)}}


def test_tokens_come_back_in_half_precision(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "m.sqlite", SETTINGS)
    tokens = torch.rand(6, 5)
    assert cache.put("a", 1, tokens) > 0
    assert ("a", 1) in cache and ("a", 0) not in cache and len(cache) == 1
    torch.testing.assert_close(cache.get("a", 1, 6, "a.png"), tokens.half().float())
    again = TeacherCache(tmp_path / "m.sqlite")
    assert again.settings["seed"] == 0 and len(again) == 1
    with pytest.raises(InputError, match=r"a\.png: has no masks in"):
        again.get("a", 0, 6, "a.png")


def test_another_seed_or_augmentation_is_named(tmp_path: Path) -> None:
    TeacherCache(tmp_path / "m.sqlite", SETTINGS)
    with pytest.raises(ConfigError, match="was made with seed 0, but this run has 1"):
        TeacherCache(tmp_path / "m.sqlite", {**SETTINGS, "seed": 1})
    with pytest.raises(ConfigError, match="was made with augmentation"):
        TeacherCache(tmp_path / "m.sqlite", {**SETTINGS, "augmentation": None})


def test_a_half_written_entry_is_not_there(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "m.sqlite", SETTINGS)
    cache.put("a", 0, torch.rand(2, 2))
    cache._file.execute("INSERT INTO tokens VALUES ('b', 0, 2, x'00')")  # and no commit, as if it were killed
    del cache
    again = TeacherCache(tmp_path / "m.sqlite", SETTINGS)
    assert ("a", 0) in again and ("b", 0) not in again


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m\.sqlite does not exist; `pe data masks` makes it"):
        TeacherCache(tmp_path / "m.sqlite")
    (tmp_path / "n.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match="is not a cache of masks, or is damaged"):
        TeacherCache(tmp_path / "n.sqlite", SETTINGS)
    cache = TeacherCache(tmp_path / "m.sqlite", SETTINGS)
    cache._file.execute("INSERT INTO tokens VALUES ('b', 0, 2, x'00')")
    with pytest.raises(InputError, match=r"b: its masks in .* are damaged"):
        cache.get("b", 0, 2, "b")


def test_tokens_of_another_grid_are_damaged(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "m.sqlite", SETTINGS)
    cache.put("a", 0, torch.rand(6, 5))
    with pytest.raises(InputError, match=r"\(they have 6x5 values, not 4 tokens\); delete that file and run"):
        cache.get("a", 0, 4, "a.png")


@pytest.mark.parametrize("settings", ["[1]", "{", "null", "7"])
def test_damaged_settings_are_named(tmp_path: Path, settings: str) -> None:
    cache = TeacherCache(tmp_path / "m.sqlite", SETTINGS)
    cache._file.execute("UPDATE settings SET json = ?", (settings,))
    cache._file.commit()
    with pytest.raises(DataError, match=r"m\.sqlite is not a cache of masks, or is damaged \(.*\); delete it and run"):
        TeacherCache(tmp_path / "m.sqlite")
