"""Peak memory of a piece of work, above what is held just before it.

On a GPU the allocator of PyTorch keeps the count. On a CPU it takes a process of its own for each piece of work,
because a process keeps much of what it has once used: there the piece is prepared (weights and inputs made, all code
run once, on a small input where it takes one), unused heap is handed back to the system, and the growth of resident
memory from there to its peak is counted. It holds results, temporaries and what autograd keeps, and also workspaces
that are made on first use at full size; weights and inputs are not in it.

The module is also the program that such a process runs:

    python -m emim.bench.memory MODULE:FUNCTION '{"argument": "value", ...}'
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from emim.errors import ProcessError

__all__ = ["PeakMemory", "Work", "main", "measure_here", "peak_in_fresh_process", "peak_on_gpu"]

Work = tuple[Callable[[], object], Callable[[], object]]
"""Preparation that is not counted, and the work that is."""


@dataclass(frozen=True)
class PeakMemory:
    """Memory of one piece of work.

    Attributes:
        peak_bytes: the most that was held beyond `level_bytes`.
        level_bytes: held just before: weights and inputs on a GPU; with them all code and libraries on a CPU.
        seconds: how long the work took.
    """

    peak_bytes: int
    level_bytes: int
    seconds: float


def peak_on_gpu(work: Callable[[], object], device: str) -> PeakMemory:
    """Peak of work that has run before, in tensors of this process on a GPU."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    level = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    return PeakMemory(torch.cuda.max_memory_allocated(device) - level, level, seconds)


def peak_in_fresh_process(
    function: str, arguments: Mapping[str, Any], *, threads: int, timeout: float | None = None
) -> PeakMemory:
    """Peak of work on the CPU, in a process of its own.

    Args:
        function: "module:name" of a function that returns `Work`.
        arguments: its keyword arguments, plain values.
        threads: CPU threads.
        timeout: seconds after which it is given up, start of the process included.

    Raises:
        ProcessError: the process ended with an error, was killed, or took too long.
    """
    # The function may be in a script's folder, which only this process has on its path.
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path]))
    order = json.dumps({"function": function, "arguments": dict(arguments), "threads": threads})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "emim.bench.memory", order],
            capture_output=True, text=True, timeout=timeout,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ProcessError(f"it took more than {timeout:.0f} s") from error
    if done.returncode < 0:
        killed = " (out of memory?)" if done.returncode == -signal.SIGKILL else ""
        raise ProcessError(f"its process was ended by {signal.Signals(-done.returncode).name}{killed}")
    if done.returncode > 0:
        last = done.stderr.strip().splitlines()[-1:] or ["without a message"]
        raise ProcessError(f"its process failed: {last[0]}")
    return PeakMemory(**json.loads(done.stdout.splitlines()[-1]))


def measure_here(work: Work) -> PeakMemory:
    """Peak of work in this process, for a process that has done nothing else.

    Reads and resets the system's own mark of the peak where that can be done (Linux); elsewhere the mark cannot be
    reset, so that work below the peak of what came before it counts as nothing.
    """
    prepare, counted = work
    prepare()
    gc.collect()
    _hand_back_heap()
    level = _reset_peak()
    start = time.perf_counter()
    counted()
    seconds = time.perf_counter() - start
    return PeakMemory(max(0, _peak() - level), level, seconds)


def _hand_back_heap() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


def _reset_peak() -> int:
    """Resident bytes now; the peak counts from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    if Path("/proc/self/status").is_file():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    """Run the work that the command line names, and print its peak memory as JSON."""
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    module, _, name = order["function"].partition(":")
    memory = measure_here(getattr(importlib.import_module(module), name)(**order["arguments"]))
    print(json.dumps(memory.__dict__))


if __name__ == "__main__":
    main()
