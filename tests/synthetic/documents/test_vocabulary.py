"""Words that only test has."""

from __future__ import annotations

import pytest

from synthetic.documents.vocabulary import CATEGORIES, held_out_words, vocabulary


@pytest.mark.parametrize("category", CATEGORIES)
def test_test_shares_no_entry_with_train(category: str) -> None:
    train, test = vocabulary(category, "train"), vocabulary(category, "test")
    assert vocabulary(category, "val") == train
    assert len(set(train)) == len(train) >= 8 and len(set(test)) == len(test) >= 4
    words = {word.lower() for entry in train for word in entry.split()}
    for entry in test:
        assert entry not in train
        assert set(entry.lower().split()) & held_out_words(), f"all words of {entry!r} occur in train"
    assert not held_out_words() & words
