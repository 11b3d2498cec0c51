"""A Ray cluster of two machines, which are processes of this one, of which one can be lost."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")


def set_environment(patch: pytest.MonkeyPatch) -> None:
    """What Ray's processes start with: this package, no files at home, a processor that others may be using too."""
    patch.setenv("PYTHONPATH", str(ROOT))
    patch.setenv("RAY_AUTH_MODE", "disabled")
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_worker_niceness", "0")
    patch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it ended meanwhile
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def processes(name: str, pid: int | None = None) -> list[int]:
    """Those below a process, by default this one, whose command line holds a name."""
    found = []
    for child in descendants(pid or os.getpid()):
        with suppress(OSError):  # it ended meanwhile
            found += [child] if name in Path(f"/proc/{child}/cmdline").read_text(errors="replace") else []
    return found


def end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(happened: Callable[[], object], seconds: float = 200) -> None:
    """Wait until something is true; AssertionError if it takes too long."""
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.05)


class Nodes:
    """A cluster of a head, to which drivers connect, and another node, each of one core; `address`: HOST:PORT."""

    def __init__(self, cluster: Any, second: Any) -> None:
        self._cluster, self._second = cluster, second
        self.address: str = cluster.address

    @property
    def workers(self) -> list[int]:
        """The processes of the second node that do work."""
        found = []
        for process in self._second.all_processes["raylet"]:
            found += processes("ray::", process.process.pid)
        return found

    def lose_one(self) -> None:
        """Kill the second node with all its processes."""
        self._cluster.remove_node(self._second, allow_graceful=False)


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a short name: it holds sockets
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # where a cluster writes its address
    size = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False, "temp_dir": place})
    try:
        yield Nodes(cluster, cluster.add_node(**size))
    finally:
        cluster.shutdown()
        shutil.rmtree(place, ignore_errors=True)
