"""The truth of a rendered video, from its metadata, and in words."""

from __future__ import annotations

from synthetic.video_dataset.truth import SceneTruth

METADATA = {
    "objects": [
        {"id": 1, "kind": "lamp", "colour": "red"},
        {"id": 2, "kind": "lamp", "colour": ""},
        {"id": 3, "kind": "crate", "colour": ""},
        {"id": 4, "kind": "pair of pliers", "colour": "blue"},
        {"id": 5, "kind": "pair of pliers", "colour": "blue"},
    ],
    "events": [
        {"action": "tips over", "object": 2, "start": 0, "end": 1},
        {"action": "orbits", "object": None, "start": 0, "end": 2},
    ],
}


def test_it_is_read_from_the_metadata() -> None:
    truth = SceneTruth.of(METADATA)
    assert truth.events == (("lamp", "tips over"),) and truth.orbits
    assert truth.counts == {"lamp": 2, "crate": 1, "pair of pliers": 2}
    assert truth.colours == {
        "lamp": frozenset({"red"}),
        "crate": frozenset(),
        "pair of pliers": frozenset({"blue"}),
    }


def test_a_colour_is_that_of_all_objects_of_a_class() -> None:
    truth = SceneTruth.of(METADATA)
    assert (truth.phrase("lamp"), truth.phrase("pair of pliers")) == ("lamp", "blue pair of pliers")
    assert [truth.counted(name) for name in truth.counts] == ["two lamps", "a crate", "two blue pairs of pliers"]
