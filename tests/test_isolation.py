"""Tests of work in isolated processes, with limits."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import worker_fixtures

from emim.isolation import Limits, WorkerLoss, call_isolated

LIMITS = Limits(seconds=30, memory=256 << 20)


def test_results_and_losses_of_calls_from_several_threads() -> None:
    items = ["a", "crash", "b", "leave", "c", "crash"]
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(lambda item: call_isolated(worker_fixtures.work, item, LIMITS), items))
    assert outcomes[::2] == ["A", "B", "C"]
    losses = [outcome for outcome in outcomes[1::2] if isinstance(outcome, WorkerLoss)]
    assert [loss.reason for loss in losses] == [
        f"its process crashed ({status})" for status in ("SIGKILL", "exit status 7", "SIGKILL")
    ]
    assert {loss.kind for loss in losses} == {"crash"}


@pytest.mark.parametrize("item", ["hang", "spin"])
def test_time_is_limited(item: str) -> None:
    loss = call_isolated(worker_fixtures.work, item, Limits(seconds=0.4))
    assert loss == WorkerLoss("took longer than 0.4 s", "time")


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of processor time")
def test_processor_time_that_runs_out_before_the_clock_is_time_and_no_crash() -> None:
    """Several threads use up the processor time faster than the clock runs."""
    loss = call_isolated(worker_fixtures.limit_processor_and_spin, "x", Limits(seconds=30))
    assert loss == WorkerLoss("took more processor time than its limit", "time")


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of address space")
def test_memory_is_limited() -> None:
    loss = call_isolated(worker_fixtures.work, "gigabytes", LIMITS)
    assert loss == WorkerLoss("needs more memory than its limit", "memory")


def test_it_can_be_stopped() -> None:
    stopped = threading.Event()
    threading.Timer(0.5, stopped.set).start()
    loss = call_isolated(worker_fixtures.work, "hang", LIMITS, stopped=stopped)
    assert loss == WorkerLoss("was stopped", "stopped")
