"""Share work among processes: this process's rank and its part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The rank of a process among those that share the work; by default the only one."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this rank's part of `count` items; parts are in order, and their sizes differ by at most one."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def all_shares(self, count: int) -> list[slice]:
        """Return the parts of all ranks, in order."""
        return [Rank(rank=rank, world_size=self.world_size).share(count) for rank in range(self.world_size)]


ALONE = Rank()
