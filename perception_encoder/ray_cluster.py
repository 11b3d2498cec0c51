"""Work on a Ray cluster with Ray Data: workers that hold a model do tasks; what a lost one began is done again.

A child process talks to Ray, because Ray ends a process whose cluster is lost, and writes to the terminal. What runs in
it is given to `stream`; what runs in workers is a `Work`.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from perception_encoder import errors
from perception_encoder.errors import ClusterError, ConfigError, MissingExtraError, PerceptionEncoderError, needs_extra
from perception_encoder.files import safe_imports

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
Stream = Callable[..., Iterator[Any]]
"""`stream(source, *arguments)` yields what `source(*arguments)` does in a process that is connected to a cluster."""

_KNOCK_SECONDS, _CONNECT_SECONDS, _END_SECONDS = 10.0, 120.0, 20.0
_TICK = 0.25  # seconds between looks at messages and machines
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
    """Detach the child from the terminal, and end it with its parent; return its process number."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "setsid"):
        os.setsid()
    if not verbose:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.getpid()


def _end_with_parent() -> None:
    """Leave the cluster if the parent is killed: its workers would go on, and keep a rerun's from starting."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_SECONDS)
    os._exit(1)


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
            address, job_config=Job(), include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR
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


class Work(ABC, Generic[T, R]):
    """What workers of a cluster do with tasks, which are lists of items; pickled to them.

    Ray begins a lost worker's task again, for ever. So the items of a task that has begun more than `together` times
    are done one at a time, and one that has begun more than `alone` times is reported as lost.
    """

    together: int = 2
    alone: int = 1

    @abstractmethod
    def open(self, device: str) -> Callable[[list[T]], list[R]]:
        """Load the worker's model, on "cpu" or "cuda"; return the function from items to their results."""

    @abstractmethod
    def lost(self, item: T) -> R:
        """Return the result of an item that ends the worker that does it."""


class Worker(Generic[T, R]):
    """A process of the cluster that does tasks with its own model; an actor of Ray Data."""

    def __init__(self, work: Work[T, R], log: Any, device: str) -> None:
        self._work, self._log, self._do = work, log, work.open(device)

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """Do a task, the number of its first item and its items, pickled; return its results, pickled."""
        (task,) = tasks["task"].to_pylist()
        start, items = pickle.loads(task)
        keys = [str(start + number) for number in range(len(items))]
        return pa.table({"results": [pickle.dumps(self.results(items, keys))]})

    def results(self, items: list[T], keys: Sequence[str]) -> list[R]:
        """Return the results of items in order; `keys`: their names among all items of the cluster."""
        if self._begin(*keys) <= self._work.together:
            results = self._do(items)
        else:
            results = [self._result(item, f"{key} alone") for item, key in zip(items, keys, strict=True)]
        self._log.end.remote(keys)
        return results

    def _result(self, item: T, key: str) -> R:
        if self._begin(key) > self._work.alone:
            return self._work.lost(item)
        (result,) = self._do([item])
        self._log.end.remote([key])
        return result

    def _begin(self, *keys: str) -> int:
        import ray

        return ray.get(self._log.begin.remote(keys))


class WorkLog:
    """Records items that workers have begun and not ended, though these may die, and messages; a Ray actor."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()
        self._reported: set[str] = set()
        self._messages: list[bytes] = []

    def begin(self, keys: Sequence[str]) -> int:
        """Return how often these items have begun without ending, including this time."""
        self._times.update(keys)
        return max(self._times[key] for key in keys)

    def end(self, keys: Sequence[str]) -> None:
        """Record that items are done."""
        for key in keys:
            del self._times[key]

    def report(self, messages: Mapping[str, bytes]) -> None:
        """Store messages until they are taken; of two with the same key the first counts."""
        self._messages += [message for key, message in messages.items() if key not in self._reported]
        self._reported |= messages.keys()

    def take(self) -> list[bytes]:
        """Return the messages so far, and forget them."""
        messages, self._messages = self._messages, []
        return messages


def start_log(restarts: int = -1) -> Any:
    """Start a `WorkLog` on this machine; it ends with its last reference. `restarts`: how often it may begin anew."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(WorkLog)
    options = {"num_cpus": 0, "max_restarts": restarts, "max_task_retries": restarts}
    return actor.options(**options, scheduling_strategy=here).remote()


def count_workers() -> Iterator[tuple[str, int]]:
    """Yield the device that a worker computes on, and the number of workers: one per GPU, or per core without any."""
    import ray

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    yield ("cuda", gpus) if gpus else ("cpu", max(1, int(resources.get("CPU", 0))))


def do_tasks(work: Work[T, R], tasks: Sequence[list[T]], memory: int, ordered: bool = False) -> Iterator[bytes]:
    """Yield the pickled results of each task as they come.

    Args:
        work: What workers do.
        tasks: Their items; Ray takes them as workers become free and results are taken.
        memory: Bytes that a worker needs; ClusterError if no machine has them, as Ray would wait for one.
        ordered: Yield results in the order of the tasks; those that are ready early wait in the cluster.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # a task's results stay together: all arrive, or it is done again
    context.execution_options.preserve_order = ordered
    ((device, workers),) = count_workers()
    most = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if most < memory:
        raise ClusterError(
            f"a worker needs {memory >> 20} MiB, and no machine of the cluster has more than {int(most) >> 20} MiB; "
            "start Ray with a larger --memory"
        )
    starts = accumulate(map(len, tasks), initial=0)
    rows = [{"task": pickle.dumps(task)} for task in zip(starts, tasks, strict=False)]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=min(workers, len(rows))),
        fn_constructor_args=(work, start_log(), device),
        num_cpus=1 if device == "cpu" else None,
        num_gpus=1 if device == "cuda" else None,
        memory=memory,
    )
    for row in results.iter_rows():
        yield row["results"]


def messages_of(dataset: Any, log: Any) -> Iterator[bytes]:
    """Run a dataset; yield what its workers report to `log`, until it ends or a machine of the cluster is lost."""
    import ray

    def machines() -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def run() -> None:
        try:
            ended.set_result([None for _ in dataset.iter_rows()])
        except BaseException as error:
            ended.set_exception(error)

    before, ended = machines(), Future[list[None]]()
    threading.Thread(target=run, daemon=True).start()
    is_over = is_lost = False
    while not (is_over or is_lost):
        time.sleep(_TICK)
        is_over, is_lost = ended.done(), bool(before - machines())
        yield from ray.get(log.take.remote())
    if not is_lost:
        ended.result()
