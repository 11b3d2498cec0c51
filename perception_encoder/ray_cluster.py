"""Connect to a Ray cluster with one-line errors, and count the tasks that workers begin."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from perception_encoder.errors import ClusterError, ConfigError, MissingExtraError, needs_extra

logger = logging.getLogger(__name__)

_KNOCK_SECONDS = 10.0
_LOOPBACK_ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0" on any system; `_node_ip_address` does not take 127.0.0.1


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
    """Connect this process; `address` as for `ray.init`, or "local" for a temporary cluster on this machine.

    Raises MissingExtraError and ClusterError.
    """
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


def last_line(error: BaseException) -> str:
    """Return Ray's error in one line: the last line of a traceback."""
    lines = str(error).strip().splitlines() or [""]
    message = " ".join((lines[-1] if 'File "' in str(error) else str(error)).split())
    return message[:300] or type(error).__name__


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
