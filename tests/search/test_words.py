"""Words in images, titles and names: stored, resumed, looked up beside meaning, mended; text is never syntax."""

from __future__ import annotations

import csv
import logging
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import perception_encoder as pe
from perception_encoder.errors import ConfigError, MediaDecodeError, MissingExtraError, SearchIndexError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.media import Media
from perception_encoder.search.lookup import (
    INSERT,
    MAXIMUM_WORDS,
    TABLE,
    WordQuery,
    expression,
    name_words,
    query_words,
    terms_of,
    text_words,
)
from perception_encoder.search.ranking import Hit, best_hits
from perception_encoder.search.storage import reader as moments
from perception_encoder.search.storage import update as update_module
from perception_encoder.search.storage.database import DATABASE, IndexRow, connect
from perception_encoder.search.storage.store import STORE, IndexStore
from perception_encoder.search.storage.words import RANKED, explain
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.search.terms import parse_words
from perception_encoder.words import reader as reading
from perception_encoder.words.reader import TextLine
from tests.search.indexes import SETTINGS, make_rows, text_line, unit_vectors


def paths(hits: object) -> list[str]:
    return [Path(hit.path).name for hit in hits]  # type: ignore[attr-defined]


def test_words_of_images_are_read_once_and_found(index, reader, pictures: list[Path]) -> None:
    words, names = reader
    words["03.jpg"] = ["Grocery store", "Total 41,20 EUR"]
    before = index()
    assert names == [] and paths(before.search('"total"')) == []
    found = index(words=True)
    assert sorted(names) == sorted(path.name for path in pictures)
    (hit,) = found.search("words:TOTAL 41,20")
    assert (Path(hit.path).name, hit.why, hit.lines) == (
        "03.jpg",
        'words: "Total 41,20 EUR"',
        (text_line("Total 41,20 EUR"),),
    )
    assert hit.to_dict()["why"] == hit.why and hit.to_dict()["lines"][0]["box"] == list(text_line("").box)
    assert found.search("grocery total")[0].why and paths(found.search("grocery total", top=3))[0] == "03.jpg"
    shutil.copy(pictures[4], pictures[0].with_name("new.jpg"))
    Image.new("RGB", (40, 40), "red").save(pictures[0].with_name("red.png"))
    words["red.png"] = ["fresh"]
    names.clear()
    again = index()  # without `words`: it goes on reading, and a copy has the words of its content
    assert names == ["red.png"] and paths(again.search('"fresh"')) == ["red.png"]
    names.clear()
    pictures[3].rename(pictures[3].with_name("moved.jpg"))
    assert paths(index().search('"grocery"')) == ["moved.jpg"] and names == []
    pictures[3].with_name("moved.jpg").unlink()
    index()
    with closing(connect(pictures[0].parent / STORE)) as connection:
        assert connection.execute("SELECT count(*) FROM words WHERE lines <> '[]'").fetchone() == (1,)


def test_an_index_is_searchable_by_meaning_before_words_are_read(
    index, reader, pictures: list[Path], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = pictures[0].parent, []

    def look(media: Media) -> list[TextLine]:
        store = IndexStore.open(folder)
        seen.append((len(store), store.unfinished))
        return []

    monkeypatch.setattr(reading, "read_words", look)
    index(words=True)
    assert seen and set(seen) == {(len(pictures), False)}


def test_an_interrupted_reading_is_resumed(index, reader, pictures: list[Path], encoder: Encoder) -> None:
    words, names = reader
    words["07.jpg"] = KeyboardInterrupt()  # type: ignore[assignment]

    def stop(media: Media) -> list[TextLine]:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        whole = reading.read_words
        patch.setattr(reading, "read_words", lambda media: stop(media) if "07" in media.name else whole(media))
        with pytest.raises(KeyboardInterrupt):
            index(words=True)
    first = list(names)
    words["07.jpg"] = ["seven"]
    names.clear()
    assert paths(index().search('"seven"')) == ["07.jpg"]
    read_twice = set(first) & set(names)
    assert first and set(first) | set(names) == {path.name for path in pictures} and len(read_twice) <= 2


def test_a_bad_image_is_skipped_with_its_reason_and_not_tried_again(index, reader, pictures, encoder: Encoder) -> None:
    words, names = reader
    words["05.jpg"] = MediaDecodeError("05.jpg", "its words cannot be read: it is upside down")
    folder = pictures[0].parent
    report = pe.open_index(folder, encoder, words=True).update()
    assert [error.reason for error in report.skipped] == ["its words cannot be read: it is upside down"]
    assert (report.words, report.wordless, report.total) == (len(pictures), 1, len(pictures))
    names.clear()
    assert pe.open_index(folder, encoder).update().skipped == () and names == []


def test_equal_lines_of_neighbouring_moments_are_stored_once(
    reader, tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.clips import clip

    words, _ = reader
    words["clip.mp4"] = ["EVENING NEWS"]
    (tmp_path / "clip.mp4").write_bytes(clip(60))
    vectors = iter(np.linalg.qr(np.random.default_rng(0).standard_normal((encoder.dimension, 99)))[0].T)
    monkeypatch.setattr(moments, "MAX_WINDOW_SECONDS", 0.6)
    monkeypatch.setattr(Encoder, "embed_pixels", lambda _, pixels, feature: np.stack([next(vectors) for _ in pixels]))
    report = pe.open_index(tmp_path, encoder, words=True).update(every=0.5)
    assert report.words == report.rows > 1
    (hit,) = pe.open_index(tmp_path, encoder).search('"evening news"')
    assert hit.start == 0 and hit.why == 'words: "EVENING NEWS"'


def test_without_the_extra_words_are_refused_or_left_for_later(
    pictures, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reader
) -> None:
    folder = pictures[0].parent
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rapidocr", None)
        with pytest.raises(MissingExtraError, match="words"):
            pe.open_index(folder, encoder, words=True).update()
    assert not (folder / STORE / DATABASE).exists()
    pe.open_index(folder, encoder, words=True).update()
    Image.new("RGB", (40, 40), "red").save(folder / "red.png")
    monkeypatch.setattr(update_module, "can_read_words", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert pe.open_index(folder, encoder).update().words == 0
    assert "words in 1 images are not read" in caplog.text
    monkeypatch.setattr(update_module, "can_read_words", lambda: True)
    assert pe.open_index(folder, encoder).update().words == 1


def test_names_and_titles_are_found_without_reading_words(tmp_path: Path, encoder: Encoder, draw) -> None:
    folder = tmp_path / "Secret" / "photos"
    for number, name in enumerate(
        ["Iceland 2019/IMG_2019_lease-final.png", "birthdayParty.png", "c.jpg", "Ünïcödé.png"]
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x9C9B] = "Grüße aus Rom".encode("utf-16-le")
        draw(number).save(folder / name, exif=exif) if name == "c.jpg" else draw(number).save(folder / name)
    pe.open_index(folder, encoder).update()
    index = pe.open_index(folder, encoder)
    for query, name in {
        "lease": "IMG_2019_lease-final.png",
        "iceland 2019": "IMG_2019_lease-final.png",
        "party": "birthdayParty.png",
        "birthdayparty": "birthdayParty.png",
        "unicode": "Ünïcödé.png",
    }.items():
        assert [(Path(hit.path).name, hit.why) for hit in index.search(f'"{query}"')] == [(name, "name")], query
    (hit,) = index.search('"grusse rom"')
    assert hit.why == 'title: "Grüße aus Rom"' and not hit.lines
    for outside in ("secret", "photos", "png", "jpg"):  # above the directory; the suffix
        assert index.search(f'"{outside}"').by_query == ((),), outside


def test_a_long_title_is_shown_shortened() -> None:
    assert explain(["森"], "東京の森" * 500, ()) == (f'title: "{"東京の森" * 25}…"', ())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf_8_are_found_by_the_rest(tmp_path: Path, encoder: Encoder, draw) -> None:
    draw(0).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "caf\udce9_menu.png")
    pe.open_index(tmp_path, encoder).update()
    assert len(pe.open_index(tmp_path, encoder).search('"menu"')) == 1


def write(store: IndexWriter, texts: dict[int, list[str]]) -> None:
    """Give some rows lines; the others have been read as well."""
    by_path = sorted(store.unread(), key=lambda image: image.path)
    store.write_words([(image, [text_line(text) for text in texts.get(at, [])]) for at, image in enumerate(by_path)])


def ask(store: IndexStore, text: str, top: int = 20, **options: object) -> list[Hit]:
    query = parse_words([text], media=False)
    return best_hits([store], unit_vectors(20, 0)[7], top, words=query.words, **options)  # type: ignore[arg-type]


def test_an_index_without_a_match_is_searched_as_without_words(store: IndexWriter) -> None:
    write(store, {3: ["invoice"]})
    vector = unit_vectors(20, 0)[7]
    expected = [(hit.path, hit.score) for hit in best_hits([store], vector, 20)]
    for text in ("nothing like it", "meaning:invoice", "zzzzz"):
        assert [(hit.path, hit.score) for hit in ask(store, text)] == expected, text


def test_exact_matches_come_first_then_ranks_are_joined(store: IndexWriter) -> None:
    write(store, {3: ["Invoice 7"], 5: ["invoices of May"], 9: ["lnvoice"], 11: ["unrelated"]})
    by_meaning = [hit.path for hit in best_hits([store], unit_vectors(20, 0)[7], 20)]
    hits = ask(store, "invoice")
    names = sorted(by_meaning)
    assert hits[0].path == names[3] and [hit.path for hit in hits if hit.why] != []
    assert {hit.path for hit in hits if hit.why} == {names[3], names[5], names[9]}  # exact, beginning, misread
    assert {hit.path for hit in hits} == set(names)  # nothing is lost
    rest = [hit.path for hit in hits if not hit.why]
    assert rest == [path for path in by_meaning if path in rest]  # in the order of meaning
    assert [hit.path for hit in ask(store, "invoice", top=3)] == [hit.path for hit in hits[:3]]
    assert {hit.path for hit in ask(store, '"invoice"')} == {names[3], names[5], names[9]}
    assert ask(store, "invoice - words:7")[0].path != names[3]
    assert [hit.score for hit in hits] == pytest.approx(
        [float(np.float32(hit.row.vector @ unit_vectors(20, 0)[7])) for hit in hits if hit.row], abs=1e-5
    )


@pytest.mark.parametrize("text", ['meaning:menu - "menu"', '-1:"menu"', "-1:words:menu + meaning:dog"])
def test_a_term_that_could_leave_out_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="'menu' can only leave out images that other words find"):
        _ = parse_words([text], media=False).words


def test_words_are_not_looked_up_without_an_index(pictures: list[Path], encoder: Encoder) -> None:
    for text in ('"menu"', "a dog - words:menu"):
        with pytest.raises(ConfigError, match="'menu' is to be found by words, which only an index has"):
            pe.search_files(text, pictures[:2], encoder)
    assert len(pe.search_files("meaning:menu", pictures[:2], encoder)) == 2


def test_filters_apply_to_hits_by_words_and_the_minimum_does_not(store: IndexWriter) -> None:
    write(store, {at: ["menu"] for at in range(20)})
    names = [hit.path for hit in ask(store, '"menu"')]
    assert len(names) == 20
    some = ask(store, '"menu"', where=f"path = '{Path(names[4]).name}'")
    assert [hit.path for hit in some] == [names[4]]
    assert [hit.path for hit in ask(store, '"menu"', min_score=0.99)] == names
    assert ask(store, '"menu"', keep=lambda _, row: False) == []


def test_more_matches_than_are_ranked_keep_the_rest_of_the_list(tmp_path: Path) -> None:
    store = IndexWriter.create(tmp_path, SETTINGS)
    store.replace([], make_rows(unit_vectors(RANKED + 30, 0)))
    write(store, {at: ["menu"] for at in range(RANKED + 30)})
    store.finish()
    assert len(ask(store, "menu", top=RANKED + 30)) == RANKED + 30
    every = ask(store, '"menu"', top=RANKED + 30)
    assert len(every) == RANKED + 30 and ask(store, '"menu"', top=9) == every[:9]
    best = {hit.path for hit in every[:RANKED]}  # excluded, say

    def keep(store: IndexStore, row: IndexRow) -> bool:
        return str(store.root / row.path) not in best

    assert ask(store, '"menu"', keep=keep) == every[RANKED : RANKED + 20]
    assert {hit.why for hit in ask(store, "menu", keep=keep)} == {'words: "menu"'}


SYNTAX = [
    '"',
    '""',
    "*",
    "NEAR(a b)",
    "-",
    "words:-",
    "terms:x",
    "a AND",
    "a OR b",
    "a NOT b",
    "(",
    "^a",
    "a*",
    "{a}:b",
    "\0",
    "'",
]


@pytest.mark.parametrize(
    "text", [*SYNTAX, "مرحبا بالعالم", "e\u0301\u0301\u0301", "\u202eabc", "x" * 10_000, "ab " * 3000]
)
def test_text_is_never_syntax(store: IndexWriter, text: str) -> None:
    write(store, {3: [text], 4: ["near and or not a b x"]})
    words = query_words(text)
    if words:
        keys = _keys(store, WordQuery(words=words))
        assert len(keys) >= 1
    try:
        ask(store, text)
    except ConfigError as error:
        assert "words" in str(error) or "empty" in str(error) or "another term" in str(error)


def find(connection: sqlite3.Connection, query: WordQuery, exact: bool) -> list[int]:
    """Return the keys of the rows that have all words."""
    rows = connection.execute("SELECT rowid FROM lookup WHERE lookup MATCH ?", [expression(query, exact)])
    return [key for (key,) in rows]


def _keys(store: IndexStore, query: WordQuery) -> list[int]:
    with closing(connect(store.directory / STORE)) as connection:
        return find(connection, query, True)


def test_long_queries_are_descriptions(store: IndexWriter) -> None:
    assert query_words(" ".join(f"word{at}" for at in range(MAXIMUM_WORDS + 1))) == ()
    with pytest.raises(ConfigError, match="no words to look up"):
        ask(store, "words:!!!")


@pytest.mark.parametrize(
    ("text", "query", "exact"),
    [
        ("発票は山田様", "発票", True),
        ("発票は山田様", "山田", True),
        ("発票は山田様", "票山", False),
        ("株式会社カメラ", "カメラ", True),
        ("がか", "か", True),
        ("Straße 5", "strasse", True),
        ("Ａｂｃ", "abc", True),
        ("שָׁלוֹם", "שלום", True),
        ("co\u00adoperate", "cooperate", True),
        ("iPhone12", "iphone", False),
        ("Total 41,20 €", "total 41.20", True),
        ("41 kg, 20 cm", "41.20", False),
        ("5.51", "51.51", False),
        ("03.12.2025", "12.2025", False),
        ("perception", "perceptiom", False),
        ("perception", "perceptoin", False),
        ("2024", "2025", None),
        ("dog", "dig", None),
    ],
)
def test_scripts_marks_and_misread_letters(text: str, query: str, exact: bool | None) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(TABLE)
        connection.execute(INSERT, [1, terms_of(text_words(text))])
        asked = WordQuery(words=query_words(query))
        found = [find(connection, asked, only) == [1] for only in (True, False)]
    expected = {True: [True, True], False: [False, True], None: [False, False]}[exact]
    assert found == ([False, False] if query == "票山" else expected)


def test_numbers_of_several_parts_are_looked_up_whole_in_bounded_time() -> None:
    assert text_words("Total 41,20 €") == ["total", "41", "20", "41\ue00120"]
    assert len(terms_of(text_words("1234,5678")).split()) == 3  # without what is for misread letters
    start = time.process_time()
    assert len(text_words("1" * 200_000)) == 1
    assert time.process_time() - start < 5


def test_names_are_split_at_separators_case_and_digits() -> None:
    assert {"img", "2019", "lease", "final"} <= set(name_words("IMG_2019_lease-final"))
    assert {"birthdayparty", "birthday", "party", "html", "file"} <= set(name_words("birthdayParty myHTMLFile"))


def test_a_million_words_in_one_image(store: IndexWriter) -> None:
    text = " ".join(f"w{at:x}" for at in range(1_000_000 // 20))
    write(store, {3: [text] * 2})
    assert len(ask(store, '"wff"')) == 1
    store.replace([ask(store, '"wff"')[0].row.path], [])  # type: ignore[union-attr]
    assert ask(store, '"wff"') == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE lookup_data SET block = x'ffffffff' || substr(block, 5) WHERE id > 10",
        "UPDATE lookup_data SET block = x'ffffffffffff' WHERE id = 10",
        "DELETE FROM lookup_data",
        "UPDATE lookup_config SET v = 99",
        "DELETE FROM lookup_config",
    ],
)
def test_a_damaged_table_of_words_is_named_and_mended(
    index, reader, pictures, encoder: Encoder, caplog, damage: str
) -> None:
    words, names = reader
    words["03.jpg"] = ["Grocery"]
    opened, folder = index(words=True), pictures[0].parent
    with closing(sqlite3.connect(folder / STORE / DATABASE)) as connection, connection:
        connection.execute(damage)
    with pytest.raises(SearchIndexError, match=r"words .* cannot be read .* mend them with: pe index"):
        opened.search('"grocery"')
    names.clear()
    with caplog.at_level(logging.WARNING):
        assert paths(index().search('"grocery"')) == ["03.jpg"] and names == []
    assert "the words of the index" in caplog.text


def test_damaged_lines_are_named_and_read_again(index, reader, pictures) -> None:
    words, names = reader
    words["03.jpg"] = ["Grocery"]
    opened, folder = index(words=True), pictures[0].parent
    with closing(sqlite3.connect(folder / STORE / DATABASE)) as connection, connection:
        connection.execute("UPDATE words SET lines = replace(lines, 'Grocery', 'Grokery')")
    with pytest.raises(SearchIndexError, match=r"the lines of .* have changed .* mend them with: pe index"):
        opened.search('"grocery"')
    names.clear()
    assert paths(index().search('"grocery"')) == ["03.jpg"] and names == ["03.jpg"]


@pytest.mark.parametrize(
    "table", ["CREATE TABLE lookup (terms)", "CREATE VIRTUAL TABLE lookup USING fts5(terms, other)"]
)
def test_another_table_of_that_name_is_refused(index, pictures, table: str) -> None:
    index()
    folder = pictures[0].parent
    with closing(sqlite3.connect(folder / STORE / DATABASE)) as connection, connection:
        connection.execute("DROP TABLE lookup")
        connection.execute(table)
    with pytest.raises(SearchIndexError, match="other tables"):
        IndexStore.open(folder)


def test_real_words_end_to_end_without_a_network(tmp_path: Path, encoder: Encoder, written, monkeypatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    written.save(tmp_path / "a.png")
    Image.new("RGB", (300, 200), "blue").save(tmp_path / "b.png")
    pe.open_index(tmp_path, encoder, words=True).update()
    (hit,) = pe.open_index(tmp_path, encoder).search('"invoice 2024"')
    assert Path(hit.path).name == "a.png" and hit.lines[0].text == "Invoice 2024"


@pytest.mark.parametrize("to", [None, "qdrant", "pgvector"])
def test_words_are_exported(index, reader, pictures, tmp_path: Path, to) -> None:
    words, _ = reader
    words["03.jpg"] = ["Grocery store", 'Total, "41"']
    out = tmp_path / ("out" if to else "out.parquet")
    index(words=True).export_vectors(out, to=to)
    if to == "pgvector":
        with (out / "vectors.csv").open(newline="", encoding="utf-8") as file:
            rows = {Path(row["path"]).name: row["words"] for row in csv.DictReader(file)}
    else:
        table = pq.read_table(out / "vectors.parquet" if to else out)
        rows = {Path(row["path"]).name: row["words"] for row in table.to_pylist()}
    lines = words["03.jpg"]
    assert rows["03.jpg"] == ("\n".join(lines) if to else lines)  # type: ignore[arg-type]
    assert not rows["04.jpg"] and len(rows) == len(pictures)


def test_embeddings_have_a_column_of_words(reader, pictures, tmp_path: Path, encoder: Encoder) -> None:
    words, _ = reader
    words["03.jpg"], words["05.jpg"] = ["Grocery store", "Total"], MediaDecodeError("05.jpg", "too odd")
    report = pe.embed([pictures[0].parent, _texts(tmp_path)], tmp_path / "out.parquet", model=encoder, words=True)
    rows = {row["path"]: row["words"] for row in pq.read_table(report.out).to_pylist()}
    found = {Path(path).name: lines for path, lines in rows.items() if lines}
    assert found == {"03.jpg": words["03.jpg"]} and report.rows == len(pictures) + 1 and not report.skipped
    assert "words" not in pq.read_schema(pe.embed(pictures[:2], tmp_path / "plain.parquet", model=encoder).out).names


def _texts(directory: Path) -> Path:
    (directory / "texts.csv").write_text("text\na cat\n")
    return directory / "texts.csv"
