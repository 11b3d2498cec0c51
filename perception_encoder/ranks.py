"""Processes that share work: the rank of this one, and each one's part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Which of several processes this one is; alone by default."""

    number: int = 0
    of: int = 1

    def share(self, count: int) -> slice:
        """This rank's part of `count` items: parts are in order, and their sizes differ by one at most."""
        return slice(count * self.number // self.of, count * (self.number + 1) // self.of)

    def all_shares(self, count: int) -> list[slice]:
        """The parts of all ranks, in order."""
        return [Rank(number=number, of=self.of).share(count) for number in range(self.of)]


ALONE = Rank()
