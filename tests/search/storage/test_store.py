"""The stored index: nearest rows, conditions, settings, odd names, damage, and one writer beside readers."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, OutputError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.storage.files import SETTINGS
from perception_encoder.search.storage.rows import among, check_condition
from perception_encoder.search.storage.store import STORE, Store
from tests.search.indexes import counts, rows_by_path

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
    (place / "settings.json").write_text('{"layout": 2, "dim')


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


def test_settings_that_are_none(update, folder: Path) -> None:
    update()
    path = folder / STORE / SETTINGS
    whole = path.read_text()
    odd = ["[]", "null", '{"layout": 2}', '{"layout": []}', '{"layout": 2, "source": 3}', "[" * 100_000, "\udcff"]
    for settings in [*odd, whole.replace('"every": 1.0', '"every": -1')]:
        path.write_bytes(settings.encode("utf-8", "surrogateescape"))
        for use in (lambda: Store.open(folder), update):
            with pytest.raises(SearchIndexError, match="pe index --rebuild") as caught:
                use()
    assert "every is '-1', not a positive number" in str(caught.value)


def test_odd_names_and_tars_are_indexed_and_forgotten(update, folder: Path, draw: Draw) -> None:
    update()
    odd = [
        os.fsdecode(name) for name in (b"it's; DROP TABLE.jpg", b"<b>&amp;.jpg", b"line\nbreak.jpg", b"\xff\xfe.jpg")
    ]
    for number, name in enumerate(odd):
        draw(50 + number).save(folder / name)
    with tarfile.open(folder / "more.tar", "w") as tar:
        tar.add(folder / "01.jpg", "inside/'one'.jpg")
    report = update()
    assert counts(report) == (4, 1, 0, 21)
    paths = set(rows_by_path(folder))
    assert {"it's; DROP TABLE.jpg", "<b>&amp;.jpg", r"line\x0abreak.jpg", r"\xff\xfe.jpg"} < paths
    assert "more.tar/inside/'one'.jpg" in paths
    for name in [*odd, "more.tar"]:
        (folder / name).unlink()
    assert counts(update()) == (0, 0, 5, 21)
    assert len(rows_by_path(folder)) == 21


@pytest.mark.parametrize(
    "condition",
    [
        "date >= '2024'",
        "kind = 'video' AND date>='2024-07' and length < 60",
        "date BETWEEN '2024-02-29' AND '2024-07-31T18:05:00'",
        "date <= '2024-07~'",  # the page's
        "'2024-07-31T18' < date OR date IN ('2024', '2023-01')",
        "path = 'not a date' AND date LIKE '2024-%' AND date IS NOT NULL",
        "path = 'the date = ''x'' y'",
    ],
)
def test_dates(condition: str) -> None:
    check_condition(condition)


@pytest.mark.parametrize(
    ("condition", "literal"),
    [
        ("date >= '2024-13'", "'2024-13'"),
        ("date >= '2023-02-29'", "'2023-02-29'"),
        ("kind = 'image' AND DATE < 'yesterday'", "'yesterday'"),
        ("date > '31.12.2024'", "'31.12.2024'"),
        ("date > '2024-07-31 18:05'", "'2024-07-31 18:05'"),
        ("date NOT BETWEEN '2024' AND '2024-1'", "'2024-1'"),
        ("'24' <= date", "'24'"),
        ("date NOT IN ('2024', 'last year')", "'last year'"),
        ("date = '' ", "''"),
    ],
)
def test_other_texts_are_refused(condition: str, literal: str) -> None:
    with pytest.raises(ConfigError, match="is not a date; dates look like '2024'") as error:
        check_condition(condition)
    assert str(error.value).startswith(literal)
