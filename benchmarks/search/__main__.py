"""How fast a library is indexed, searched and served; a part that runs replaces its own results only.

    python -m benchmarks.search [PART ...] [--brief] [--out docs/results/search.json]

Parts: ann (nearest neighbours of a million vectors, beside LanceDB and, if it is installed, faiss), page
(`pe serve` over 100,000 images), shell (`pe search` from the shell), indexing (`pe index` beside encoding alone),
video (frames sampled from clips), server (`pe serve --api` under load). The peers: pip install faiss-cpu;
all parts with them take hours. --brief takes fewer rounds, and of vectors of 1024 dimensions only our own search.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import report
from benchmarks.search import ann, indexing, library, server, shell, video

PARTS: dict[str, Any] = {
    "ann": ann,
    "page": library,
    "shell": shell,
    "indexing": indexing,
    "video": video,
    "server": server,
}
"""Each has `measure(brief)`, which returns its result."""


def machine() -> str:
    """Return the cores and versions of this machine."""
    return f"{os.cpu_count()} CPU cores, torch {torch.__version__}, Python {platform.python_version()}"


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [default: all]")
    parser.add_argument("--brief", action="store_true", help="fewer rounds: a trial of the benchmark itself")
    parser.add_argument("--out", type=Path, help="JSON to write; parts that do not run stay as they are there")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    known = arguments.out is not None and arguments.out.exists()
    result = json.loads(arguments.out.read_text()) if known else {}
    for name in arguments.parts or PARTS:
        load = os.getloadavg()[0]
        values = PARTS[name].measure(arguments.brief)
        command = f"python -m benchmarks.search {name}{' --brief' if arguments.brief else ''}"
        result[name] = {"command": command, "machine": machine(), "load": [load, os.getloadavg()[0]], **values}
        report({part: result[part] for part in PARTS if part in result}, arguments.out)


if __name__ == "__main__":
    main()
