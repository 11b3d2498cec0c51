"""The settings of an index."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import SearchIndexError
from perception_encoder.search.storage.files import SETTINGS
from perception_encoder.search.storage.store import STORE, Store
from perception_encoder.search.storage.update import writable_store


def test_the_model_is_remembered(folder: Path, update, checkpoint: Path) -> None:
    update()
    with writable_store(folder) as (index, encoder):
        assert index.settings["source"] == str(checkpoint)
        assert encoder.weight_hash == index.settings["weight_hash"]


def test_settings_that_are_none(update, folder: Path) -> None:
    update()
    path = folder / STORE / SETTINGS
    whole = path.read_text()
    odd = ["[]", "null", '{"layout": 1}', '{"layout": []}', '{"layout": 1, "source": 3}', "[" * 100_000, "\udcff"]
    for settings in [*odd, whole.replace('"every": 1.0', '"every": -1')]:
        path.write_bytes(settings.encode("utf-8", "surrogateescape"))
        for use in (lambda: Store.open(folder), update):
            with pytest.raises(SearchIndexError, match="pe index --rebuild") as caught:
                use()
    assert "every is '-1', not a positive number" in str(caught.value)
