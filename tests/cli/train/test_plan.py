"""`pe train --list` and `--plan`."""

from __future__ import annotations

from collections.abc import Callable

from tests.conftest import Run


def test_recipes_are_listed_and_an_unknown_one_shows_near_ones(run_pe: Callable[..., Run]) -> None:
    listed = run_pe("train", "--list")
    assert listed.status == 0 and "builtin\t" in listed.stdout
    assert "core_g14\tPE-Core-G: 86 billion pairs" in listed.stdout
    wrong = run_pe("train", "buildin")
    assert wrong.status == 2 and "did you mean builtin" in wrong.stderr


def test_a_plan_of_a_run_on_a_cluster(run_pe: Callable[..., Run]) -> None:
    run = run_pe("train", "core_g14", "--plan", "--devices", "512")
    assert run.status == 0, run.stderr
    assert "656,000" in run.stdout and "optimizer" in run.stdout and "GB: fits" in run.stdout
    (whole,) = (line.split("\t") for line in run.stdout.splitlines() if line.startswith("all\t"))
    steps, pairs, flops, executed = (int(cell.replace(",", "")) for cell in whole[1:5])
    assert (steps, pairs) == (656_000, 85_983)  # 86 billion pairs in batches of 131,072
    assert 200_000 < flops < 240_000 and 1.3 < executed / flops < 1.7  # blocks are recomputed
    small = run_pe("train", "core_g14", "--plan", "--devices", "512", "--device", "989:40")
    assert "does not fit" in small.stdout
    slow = run_pe("train", "core_g14", "--plan", "--devices", "512", "--device", "98.9:80", "--utilization", "0.4")
    hours = [int(each.stdout.partition(" device-hours, ")[0].split()[-1].replace(",", "")) for each in (run, slow)]
    assert abs(hours[1] - 10 * hours[0]) <= 10  # both are rounded
    unknown = run_pe("train", "core_g14", "--plan", "--device", "h10")
    assert unknown.status == 2 and "did you mean h100?" in unknown.stderr
    for recipe, holds in (("distill_builtin", "assumed: the teacher encodes 78% of"), ("finetune", "buckets")):
        small = run_pe("train", recipe, "--plan")
        assert small.status == 0 and holds in small.stdout and " 0 device-hours" not in small.stdout, small.stderr
