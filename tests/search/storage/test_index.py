"""An index: its nearest rows, its damages, and one writer beside readers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, OutputError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.rows import among
from perception_encoder.search.storage.store import STORE, Store
from perception_encoder.search.storage.update import writable_store
from tests.search.indexes import counts

Draw = Callable[[int], Image.Image]


def test_nearest_is_exact_and_takes_conditions(update, folder: Path, encoder: Encoder) -> None:
    update()
    index = Store.open(folder)
    rows = index.rows()
    query = encoder.encode_texts("a cat")
    scores = {row.id: float(row.vector @ query) for row in rows}
    found = index.nearest(query, 5)
    assert [row.id for _, row in found] == sorted(scores, key=scores.get, reverse=True)[:5]
    np.testing.assert_allclose([score for score, _ in found], sorted(scores.values())[:-6:-1], atol=1e-5)
    assert {row.kind for _, row in index.nearest(query, 9, "kind = 'video'")} == {"video"}
    assert {row.path for row in index.rows(among("path", ["01.jpg", "it's"]))} == {"01.jpg"}
    assert index.rows("date > '2999'") == [] and len(index.rows("date > '1999-05'")) == len(rows)
    with pytest.raises(ConfigError, match="condition 'colour = 3' is invalid"):
        index.nearest(query, 5, "colour = 3")


def _cut_settings(place: Path) -> None:
    (place / "settings.json").write_text('{"layout": 1, "dim')


def _other_layout(place: Path) -> None:
    settings = json.loads((place / "settings.json").read_text())
    (place / "settings.json").write_text(json.dumps({**settings, "layout": 0}))


def _no_table(place: Path) -> None:
    shutil.rmtree(place / "moments.lance")


def _no_manifests(place: Path) -> None:
    shutil.rmtree(place / "moments.lance" / "_versions")


@pytest.mark.parametrize("harm", [_cut_settings, _other_layout, _no_table, _no_manifests])
def test_a_damaged_index_is_refused_with_the_remedy(harm: Callable[[Path], None], update, folder: Path) -> None:
    update()
    harm(folder / STORE)
    with pytest.raises(SearchIndexError, match=r"rebuild it with: pe index --rebuild"):
        Store.open(folder)
    with pytest.raises(SearchIndexError, match="--rebuild"):
        update()
    assert counts(update(rebuild=True, directory=folder)) == (21, 0, 0, 0)


def test_an_index_whose_making_was_cut_off_is_none(update, folder: Path) -> None:
    update()
    (folder / STORE / "settings.json").unlink()
    assert not Store.exists(folder)
    with pytest.raises(SearchIndexError, match="has no index; create one with: pe index"):
        Store.open(folder)
    assert counts(update()) == (21, 0, 0, 0)


def test_there_is_one_writer_and_readers_beside_it(update, folder: Path, draw: Draw, encoder: Encoder) -> None:
    update()
    reader = Store.open(folder)
    with Store.for_writing(folder), pytest.raises(OutputError, match="another run is writing the index"):
        update()
    for number in range(3):
        draw(60 + number).save(folder / f"more{number}.jpg")
        update()
        assert len(reader.nearest(encoder.encode_texts("a cat"), 100)) >= 21
    assert len(Store.open(folder).files()) == 24


def test_no_folder_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is not a directory"), writable_store(tmp_path / "missing", str(checkpoint)):
        pass
