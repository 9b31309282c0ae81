"""How soon a chain is ready: five nodes, from a launcher that has yet to import torch, on two cores."""

import os
import time

import psutil
import pytest
from jobs import small_job

from bench.live import processes
from bench.live.training import run_live
from nodes.spec.job import DataSpec

READY_S = 8.0
OTHERS = 0.1  # of the machine's time: with more of it taken by others a late start says nothing of ours
TRIES = 3  # whatever else the machine does only slows a start; the quickest says what the code can


def seconds_to_first_epoch() -> float:
    """From the start of a launcher until five nodes, all ready, have trained one step together."""
    job = small_job(3, 6, 9, 12, data=DataSpec(train_samples=8, test_samples=8))
    reported: list[float] = []
    began = time.monotonic()
    try:
        outcome = run_live(job, say=lambda _: reported.append(time.monotonic()))
    finally:
        processes.launcher().close()  # the next one is cold again
    assert len({node.pid for node in outcome.nodes}) == 5
    return reported[0] - began


def others_s() -> float:
    """Seconds that the processors have worked so far, but for us and those of our children that have ended."""
    machine, us = psutil.cpu_times(), os.times()
    return sum(machine) - machine.idle - machine.iowait - sum(us[:4])


def test_five_nodes_are_ready_in_time_from_a_cold_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_launcher", None)  # that of other tests is left as it is
    taken: list[float] = []
    while len(taken) < TRIES and min(taken, default=READY_S) >= READY_S:
        began, before_s = time.monotonic(), others_s()
        taken.append(seconds_to_first_epoch())
        others = (others_s() - before_s) / (time.monotonic() - began) / (os.cpu_count() or 1)
        if min(taken) >= READY_S and others > OTHERS:
            # The bound is of a machine of its own: late beside other work, this says nothing of the start.
            pytest.skip(f"others took {others:.0%} of this machine meanwhile: {taken}")
    assert min(taken) < READY_S, taken
