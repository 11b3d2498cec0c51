"""The grammar of queries: words of the command line and lines of the page become the same terms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, MediaDecodeError, MediaNotFoundError
from perception_encoder.formats.listing import Item
from perception_encoder.preprocess.media import Media
from perception_encoder.search.index import as_queries
from perception_encoder.search.storage.database import IndexRow
from perception_encoder.search.terms import (
    Query,
    Term,
    UploadedImage,
    media_query,
    parse_lines,
    parse_words,
    split_words,
    text_query,
)
from tests.clips import clip

VECTOR = np.zeros(4, np.float32)


def row(id: str) -> IndexRow:
    about = {"date": "", "size": 1, "modified": 0, "digest": "", "width": 1, "height": 1}
    return IndexRow(id=id, path=f"{id}.jpg", kind="image", vector=VECTOR, **about)


def find(kind: str, id: str) -> IndexRow | UploadedImage:
    return row(id) if kind == "like" else UploadedImage(id=id, vector=VECTOR)


def parts(query: Query) -> list[tuple[float, str, str]]:
    """The weight, kind and text or id of each term."""
    kinds = {Media: "text", IndexRow: "like", UploadedImage: "image"}
    sources = [term.source for term in query.terms]
    names = [source.name if isinstance(source, Media) else source.id for source in sources]
    return [(term.weight, kinds[type(term.source)], name) for term, name in zip(query.terms, names, strict=True)]


@pytest.mark.parametrize(
    ("words", "query", "files"),
    [
        (["a cat"], ["a cat"], []),
        (["a cat", "photos", "clips"], ["a cat"], ["photos", "clips"]),
        (["2:dog", "-", "snow", "photos"], ["2:dog", "-", "snow"], ["photos"]),
        (["dog", "+", "park", "-", "snow"], ["dog", "+", "park", "-", "snow"], []),
        (["dog", "-"], ["dog", "-"], []),
    ],
)
def test_words_are_split_into_query_and_files(words: list[str], query: list[str], files: list[str]) -> None:
    assert split_words(words) == (query, files)


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        (["a cat"], [(1, "a cat")]),
        (["2:dog", "-", "snow"], [(2, "dog"), (-1, "snow")]),
        (["0.5:dog", "+", "10:30 train", "-", "3:a: b"], [(0.5, "dog"), (10, "30 train"), (-3, "a: b")]),
        (["dog: 2"], [(1, "dog: 2")]),
        (["-1:dog", "+", "-0.5:snow"], [(-1, "dog"), (-0.5, "snow")]),
    ],
)
def test_words_and_the_page_s_line_of_them_are_the_same_query(words: list[str], terms: list[tuple]) -> None:
    query, line = parse_words(words), parse_lines([f"text:{' '.join(words)}"], find)
    assert parts(query) == parts(line) == [(weight, "text", text) for weight, text in terms]
    assert parts(parse_words([" ".join(words)])) == parts(as_queries(" ".join(words))[0]) == parts(query)
    assert query.name == as_queries(" ".join(words))[0].name == " ".join(words)
    assert query.kind == line.kind == ("text" if len(terms) == 1 else "query")


@pytest.mark.parametrize(
    ("lines", "terms"),
    [
        (["-0.5:text:2:a cat - snow"], [(-1, "text", "a cat"), (0.5, "text", "snow")]),
        (["text:like:this"], [(1, "text", "like:this")]),
        (["like:ab12", "-1.25:image:f00"], [(1, "like", "ab12"), (-1.25, "image", "f00")]),
        (["0:like:ab12", "text:a cat"], [(0, "like", "ab12"), (1, "text", "a cat")]),
    ],
)
def test_lines_have_weights_and_kinds(lines: list[str], terms: list[tuple[float, str, str]]) -> None:
    assert parts(parse_lines(lines, find)) == terms


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "is not a query"),
        (["/etc/passwd"], "is not a query"),
        (["picture:f00"], "is not a query"),
        (["text:a cat", "1e9:text:a dog"], "'1e9:text:a dog' is not a query"),
        (["nan:like:ab12"], "is not a query"),
        (["text:a cat\nlike:ab12", "like:\n"], "is not a query"),
        (["text:a cat", "text: "], "the query is empty"),
        (["like:ab12"] * 33, "33 terms"),
        (["text:" + " + ".join(["a cat"] * 33)], "33 terms"),
    ],
)
def test_other_lines_are_refused(lines: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_lines(lines, find)


def test_a_text_of_the_page_never_opens_a_file(tmp_path: Path) -> None:
    """Who may search from a browser may not read the server's files."""
    file = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(file)
    for text in (str(file), "https://example.org/secret.png", "missing.jpg"):
        assert parts(parse_lines([f"text:{text}"], find)) == [(1, "text", text)]


@pytest.mark.parametrize(("words", "message"), [(["dog", "-"], "another term"), (["dog", "+", " "], "empty")])
def test_half_a_query_is_an_error(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_words(words)


def test_an_empty_text_is_an_error() -> None:
    with pytest.raises(ConfigError, match="empty"):
        text_query("  ")


def test_an_image_whose_name_holds_signs_is_one_term(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("a - b.png")
    assert [term.weight for term in parse_words(["a - b.png"]).terms] == [1]
    assert [term.weight for term in parse_words(["2:a - b.png", "-", "c + d"]).terms] == [2, -1, 1]
    assert parts(as_queries({"2:a - b": 3})[0]) == [(3, "text", "2:a - b")]  # as it is


def test_a_missing_image_is_an_error_and_a_folder_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").mkdir()
    assert parse_words(["cat"]).kind == parse_words(["missing.jpg"], media=False).kind == "text"
    with pytest.raises(MediaNotFoundError, match=r"missing\.jpg: no such file"):
        parse_words(["missing.jpg"])


@pytest.mark.parametrize(("path", "error"), [("missing.jpg", MediaNotFoundError), ("empty.jpg", MediaDecodeError)])
def test_a_bad_image_is_an_error(
    path: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(error, match=path):
        media_query(path)


def test_a_query_contains_its_own_file_or_part_of_it_and_its_row(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(60))
    (tmp_path / "other.mp4").write_bytes(clip(10))

    def contains(query: Query, start: float | None = None, end: float | None = None, source: Path = path) -> bool:
        return query.contains(Item("x", "x", source, start, end), row("x"))

    whole = media_query(str(path))
    assert contains(whole) and contains(whole, 1.0, 2.0)
    assert not contains(whole, source=tmp_path / "other.mp4") and not contains(whole, source=tmp_path / "missing.mp4")
    moment = media_query(f"{path}@1.5s")
    assert contains(moment, 1.0, 2.0) and contains(moment)
    assert not contains(media_query(f"{path}@2.1s"), 1.0, 2.0)
    assert not contains(text_query("clip.mp4"))
    like_x, like_y = (Query(name=name, terms=(Term(source=row(name)),)) for name in "xy")
    assert contains(like_x) and not contains(like_y)
