"""Videos cut into moments: by shot changes, by length, and merged if neighbours are similar."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_encoder.search.storage import reader as module
from perception_encoder.search.storage.reader import Frame, cut_moments


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of at most four seconds."""
    monkeypatch.setattr(module, "MAX_WINDOW_SECONDS", 4.0)


def frames(kinds: str, colours: str | None = None) -> list[Frame]:
    """A frame a second; a letter stands for what it shows (a direction) and, where none are given, its colours."""
    seen = []
    for number, (kind, colour) in enumerate(zip(kinds, colours or kinds, strict=True)):
        vector, histogram = np.zeros(26, np.float32), np.zeros(26, np.float32)
        vector[ord(kind) - 97] = histogram[ord(colour) - 97] = 1
        seen.append(Frame(time=float(number), end=number + 1.0, colours=histogram, vector=vector))
    return seen


def spans(kinds: str, colours: str | None = None) -> list[tuple[float, float]]:
    return [(moment.start, moment.end) for moment in cut_moments(frames(kinds, colours))]


@pytest.mark.parametrize(
    ("kinds", "colours", "expected"),
    [
        ("aabbb", "aabbb", [(0, 2), (2, 5)]),  # a shot change
        ("aaaaaaaaaa", "aaaaaaaaaa", [(0, 10)]),  # a long take of one thing
        ("aaaabbbb", "aaaaaaaa", [(0, 4), (4, 8)]),  # a change without a cut, parted by length
        ("aaaa", "abab", [(0, 4)]),  # cuts between views of one thing
    ],
)
def test_moments_end_at_changes(kinds: str, colours: str, expected: list[tuple[float, float]]) -> None:
    assert spans(kinds, colours) == expected


def test_a_moment_has_the_mean_vector_and_its_most_typical_frame() -> None:
    (moment,) = cut_moments(frames("aab", "aaa"))
    np.testing.assert_allclose(moment.vector[:2], np.array([2, 1]) / 5**0.5, atol=1e-6)
    assert moment.best.time == 0


def test_windows_that_are_alike_are_weighed_by_their_frames() -> None:
    long_a = frames("aaaaaaaab", "aaaaaaaaa")  # windows of aaaa, aaaa and b
    (first, second) = cut_moments(long_a)
    assert (first.end, second.start) == (8, 8)
    mixed = cut_moments(frames("aaabaaaa", "aaaaaaaa"))  # aaab and aaaa have a cosine similarity of 0.95
    (whole,) = mixed
    np.testing.assert_allclose(whole.vector[:2], np.array([7, 1]) / 50**0.5, atol=1e-6)


def test_of_a_closed_window_one_frame_is_kept() -> None:
    def numbered() -> Iterator[Frame]:
        for number in range(1000):
            vector = np.eye(1, 26, number % 26, dtype=np.float32)[0]
            yield Frame(number, number + 1, np.zeros(1, np.float32), vector, thumbnail=bytes(1000))

    moments = cut_moments(numbered())
    assert len(moments) == 250 and sum(len(moment.best.thumbnail) for moment in moments) == 250_000


def test_no_frames_no_moments() -> None:
    assert cut_moments([]) == []


@given(st.text("abc", min_size=1, max_size=30), st.data())
def test_moments_cover_the_video_without_gaps(kinds: str, data: st.DataObject) -> None:
    found = spans(kinds, data.draw(st.text("abc", min_size=len(kinds), max_size=len(kinds))))
    assert found[0][0] == 0 and found[-1][1] == len(kinds)
    assert [end for _, end in found[:-1]] == [start for start, _ in found[1:]]
