"""Freed memory stays in the process, so that it costs no page faults later; or it goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")


def run(code: str, *arguments: str) -> int:
    """The number that a program in a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


FAULTS = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from perception_encoder.models.memory import keep_freed_memory
    keep_freed_memory()
for _ in range(3):
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_large_tensors_cost_no_page_faults_again() -> None:
    assert run(FAULTS, "keep") < 100
    assert run(FAULTS, "default") > 300


def test_memory_of_large_blocks_goes_back_to_the_system() -> None:
    """glibc's own rule keeps blocks of a size that was freed once; a server would keep what its largest images took."""
    code = """
import sys, threading
from perception_encoder.models.memory import limit_memory
if sys.argv[1] == "limited":
    limit_memory()
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def work():
    for _ in range(3):
        blocks = [libc.malloc(20 << 20) for _ in range(4)]
        for block in blocks:
            ctypes.memset(block, 1, 20 << 20)
        small = libc.malloc(100)  # above them
        for block in blocks:
            libc.free(block)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20)
"""
    assert run(code, "limited") + 30 < run(code, "plain")


def test_what_is_free_between_blocks_in_use_goes_back_to_the_system() -> None:
    """Before: a server kept 700 MB that loading a language model had freed."""
    code = """
import ctypes
from perception_encoder.models.memory import trim_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
blocks = []
for _ in range(1000):
    blocks.append(libc.malloc(100_000))
    ctypes.memset(blocks[-1], 1, 100_000)
    libc.malloc(100)  # stays
for block in blocks:
    libc.free(block)
before = resident()
trim_memory()
print(before - resident())
"""
    assert run(code) > 60
