"""Bytes of decoded images that threads hold at the same time."""

from __future__ import annotations

import threading
import time

import pytest

from perception_encoder.preprocess.budget import ByteBudget


def test_large_ones_wait_and_one_over_the_limit_goes_alone() -> None:
    budget, held, most = ByteBudget(10), [0], []
    lock = threading.Lock()

    def work(size: int) -> None:
        with budget.holding(size):
            with lock:
                held[0] += size
                most.append((size, held[0]))
            time.sleep(0.01)
            with lock:
                held[0] -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (4, 4, 4, 25, 3, 3, 3, 6, 25, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(most) == 10 and max(sum_held for size, sum_held in most if size < 25) <= 10
    assert [sum_held for size, sum_held in most if size == 25] == [25, 25]


def test_what_an_admission_holds_is_free_after_an_error() -> None:
    budget = ByteBudget(10)
    with pytest.raises(OSError), budget.admission() as admit:
        admit(8)
        raise OSError
    with budget.admission() as admit:
        admit(10)
