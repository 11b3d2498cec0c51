"""Sections of contact sheets: files by their labels. Hits of queries: see test_galleries."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from perception_encoder.inference.collection import encode_media, list_media_items
from perception_encoder.inference.encoder import Encoder
from perception_encoder.search.web.contact_sheet import LabelledFiles


def test_named_files_are_sorted_by_label_and_probability(encoder: Encoder, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    collection = encode_media(encoder, list_media_items([tmp_path]))
    guesses = [[("dog", 0.6), ("cat", 0.4)], [("cat", 0.7), ("dog", 0.3)], [("dog", 0.9), ("cat", 0.1)]]
    vectors = dict(zip(("cat", "dog"), encoder.encode_texts(["cat", "dog"]), strict=True))
    naming = LabelledFiles(encoder, collection, guesses, vectors)
    page = tmp_path / "index.html"
    sections = {section.heading: (section.note, list(section.tiles)) for section in naming.sections(page)}
    assert list(sections) == ["dog", "cat"]
    assert [(note, [tile.caption for tile in tiles]) for note, tiles in sections.values()] == [
        ("2 of 3", ["c.png", "a.png"]),
        ("1 of 3", ["b.png"]),
    ]
    first = sections["dog"][1][0]
    assert (first.value, first.share, first.details) == ("90%", 0.9, ("cat 10%",))
    flat = list(naming.section("Named", "", page).tiles)
    assert [(tile.caption, tile.details) for tile in flat][:1] == [("dog", ("a.png", "cat 40%"))]
