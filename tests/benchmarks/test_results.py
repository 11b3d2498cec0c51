"""Results of earlier versions are read with today's keys."""

from __future__ import annotations

from benchmarks.results import with_new_words


def test_old_keys_are_renamed_at_every_depth() -> None:
    old = {"figures": [{"name": "a", "value": 0.5, "ci": [0.4, 0.6]}], "curves": [{"gap": {"ci": None}}]}
    new = {"scores": [{"name": "a", "value": 0.5, "interval": [0.4, 0.6]}], "curves": [{"gap": {"interval": None}}]}
    assert with_new_words(old) == new == with_new_words(new)


def test_words_inside_keys_are_renamed_and_values_stay() -> None:
    old = {"folder to file": [1.0], "said: foreign things": "a picture", "figured": {}}
    new = {"directory to file": [1.0], "nothing matches: foreign names": "a picture", "figured": {}}
    assert with_new_words(old) == new == with_new_words(new)
