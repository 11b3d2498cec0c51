"""`pe train --list` and `--plan`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Run


def test_recipes_are_listed_and_an_unknown_one_shows_near_ones(run_pe: Callable[..., Run]) -> None:
    listed = run_pe("train", "--list")
    assert listed.status == 0 and "core_n16\t" in listed.stdout
    assert "core_g14\tPE-Core-G: 86 billion pairs" in listed.stdout
    wrong = run_pe("train", "core_n61")
    assert wrong.status == 2 and "did you mean core" in wrong.stderr


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_a_plan_of_a_run_on_a_cluster(run_pe: Callable[..., Run]) -> None:
    run = run_pe("train", "core_g14", "--plan", "--devices", "512")
    assert run.status == 0, run.stderr
    assert "optimizer" in run.stdout and "GB: fits" in run.stdout
    (whole,) = (line.split("\t") for line in run.stdout.splitlines() if line.startswith("all\t"))
    steps, pairs, flops_of_step, flops, used, hours = map(number, whole[1:])
    assert (steps, pairs) == (656_000, 656_000 * 131_072)  # 86 billion pairs
    assert 2e23 < flops < 2.4e23 and flops_of_step * steps == pytest.approx(flops, rel=0.01)
    assert used < 72 and hours * 3600 * 512 * 0.4 * 989e12 > 1.3 * flops  # blocks are recomputed
    small = run_pe("train", "core_g14", "--plan", "--devices", "512", "--device", "989:40")
    assert "does not fit" in small.stdout
    slow = run_pe("train", "core_g14", "--plan", "--devices", "512", "--device", "98.9:80", "--utilization", "0.4")
    totals = [number(each.stdout.partition(" device-hours")[0].split()[-1]) for each in (run, slow)]
    assert abs(totals[1] - 10 * totals[0]) <= 10  # both are rounded
    unknown = run_pe("train", "core_g14", "--plan", "--device", "h10")
    assert unknown.status == 2 and "did you mean h100?" in unknown.stderr
    for recipe, holds in (
        ("distill_builtin", "assumed: the teacher encodes 78% of"),
        ("finetune", "million of them trained"),
    ):
        small = run_pe("train", recipe, "--plan")
        assert small.status == 0 and holds in small.stdout and " 0 device-hours" not in small.stdout, small.stderr
    few = run_pe("train", "language_custom", "--set", "batch_size=6", "--plan")
    assert few.status == 0 and "6 devices at 40 %" in few.stdout, few.stderr
