"""Work on a Ray cluster with Ray Data, with one-line errors; count the tasks that workers begin.

A child process talks to Ray, because Ray ends a process whose cluster is lost, and writes to the terminal.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from perception_encoder import errors
from perception_encoder.errors import (
    ClusterError,
    ConfigError,
    MissingExtraError,
    PerceptionEncoderError,
    needs_extra,
)
from perception_encoder.files import safe_imports

logger = logging.getLogger(__name__)

Stream = Callable[..., Iterator[Any]]
"""`stream(source, *arguments)` yields what `source(*arguments)` does in a process that is connected to a cluster."""

_KNOCK_SECONDS, _CONNECT_SECONDS, _END_SECONDS = 10.0, 120.0, 20.0
_LOOPBACK_ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0" on any system; `_node_ip_address` does not take 127.0.0.1


@contextmanager
def on_cluster(address: str) -> Iterator[Stream]:
    """Connect a child process to a Ray cluster; yield the function that streams from it, see `Stream`.

    `address`: "auto", HOST:PORT, or "local" for a temporary cluster on this machine. Raises MissingExtraError without
    Ray, ConfigError for a ray:// address, and ClusterError if no cluster answers; a stream raises what its source does,
    and ClusterError if workers fail or the cluster is lost.
    """
    check_cluster(address)
    with safe_imports(), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            pid = pool.submit(_become_driver, logger.isEnabledFor(logging.INFO)).result()
        except BrokenProcessPool:
            hint = "a script that is run needs: if __name__ == '__main__'"
            raise ClusterError(f"the process that connects to Ray did not start; {hint}") from None
        (child,) = (process for process in multiprocessing.active_children() if process.pid == pid)

        def stream(source: Callable[..., Iterator[Any]], *arguments: object) -> Iterator[Any]:
            try:
                pool.submit(_begin, source, arguments).result()
                while (result := pool.submit(_next).result()) is not None:
                    yield result
            except BrokenProcessPool:
                raise ClusterError(f"the Ray cluster at {address} was lost; rerun the command to resume") from None

        try:
            try:
                pool.submit(connect_cluster, address).result(_CONNECT_SECONDS)
            except (BrokenProcessPool, TimeoutError):
                raise ClusterError(f"no Ray cluster answers at {address}; pe -v shows Ray's messages") from None
            yield stream
        finally:
            child.terminate()  # on this Ray leaves its cluster in good order
            child.join(_END_SECONDS)
            child.kill()


_results: Iterator[Any] = iter(())
"""Of the child process: what its source has not yielded yet."""


def _become_driver(verbose: bool) -> int:
    """Detach the child from the terminal; return its process number."""
    if hasattr(os, "setsid"):
        os.setsid()
    if not verbose:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.getpid()


def _begin(source: Callable[..., Iterator[Any]], arguments: Sequence[object]) -> None:
    global _results
    _results = source(*arguments)


def _next() -> Any:
    """Return the next result, None after the last."""
    try:
        return next(_results, None)
    except PerceptionEncoderError:
        raise
    except Exception as error:
        logger.warning("the cluster failed", exc_info=error)  # shown by pe -v
        raise _failure(error) from None


def _failure(error: Exception) -> ClusterError:
    """Return why workers failed; Ray passes on only the text of a traceback."""
    ours = re.search(rf"^{errors.__name__}\.\w+: (.+)", str(error), re.MULTILINE)
    other = re.search(r"^[\w.]+Error: .+", str(error), re.MULTILINE)  # the first that was raised
    reason = ours[1] if ours else other[0] if other else f"{type(error).__name__}: {last_line(error)}"
    return ClusterError(f"a worker of the cluster failed: {reason}; rerun the command to resume")


def check_cluster(address: str) -> None:
    """Raise MissingExtraError without Ray, ConfigError for a client's address, and ClusterError if nothing listens.

    Ray itself would try to connect for minutes.
    """
    if address.startswith("ray://"):
        raise ConfigError(f"{address} is a client address; run the command on a machine of the cluster, with auto")
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("ray", "cluster")
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return  # Ray explains what is wrong with it
    if host and port:
        try:
            socket.create_connection((host, port), _KNOCK_SECONDS).close()
        except OSError as error:
            reason = error.strerror or error
            raise ClusterError(f"no Ray cluster answers at {address}: {reason}; start one with: ray start") from None


def connect_cluster(address: str) -> None:
    """Connect this process; `address` as for `on_cluster`. Raises MissingExtraError and ClusterError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == "local":  # whoever reaches Ray's ports can run code
        os.environ[_LOOPBACK_ALONE] = "0"
    with needs_extra("cluster"):
        import ray
        import ray.data
        from ray.job_config import JobConfig

    class Job(JobConfig):
        """A job whose workers import from where this process does, and not from the current directory."""

        def _serialize(self) -> Any:
            self._py_driver_sys_path = [path for path in self._py_driver_sys_path if path in sys.path]
            return super()._serialize()

    dashboard = False if address == "local" else None
    try:
        ray.init(
            address,
            job_config=Job(),
            include_dashboard=dashboard,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        logger.warning("no cluster", exc_info=error)
        raise ClusterError(f"no Ray cluster answers at {address}: {last_line(error)}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False


def last_line(error: BaseException) -> str:
    """Return Ray's error in one line: the last line of a traceback."""
    lines = str(error).strip().splitlines() or [""]
    message = " ".join((lines[-1] if 'File "' in str(error) else str(error)).split())
    return message[:300] or type(error).__name__


def count_work() -> Any:
    """Start a `WorkCounter` on the cluster; it ends with its last reference."""
    import ray

    counter: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(WorkCounter)
    return counter.remote()


class WorkCounter:
    """Counts how often workers begin tasks, whether or not they survive; a Ray actor."""

    def __init__(self) -> None:
        self._times: Counter[int | str] = Counter()

    def begin(self, task: int | str) -> int:
        """Return how often the task has begun without ending, including this time."""
        self._times[task] += 1
        return self._times[task]

    def end(self, task: int | str) -> None:
        """Record that the task is done."""
        del self._times[task]
