"""The memory probe: it sees what is allocated, does not see what was there before, and says how a process ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emim.bench.memory import measure_here, peak_in_fresh_process
from emim.errors import ProcessError

MIB = 2**20

WORK = """
import os, time
import torch

def allocate(mebibytes, before):
    kept = []
    prepare = lambda: kept.append(torch.ones(before * 2**18))
    def work():
        for _ in range(3):  # one after the other: the peak is that of one
            torch.ones(mebibytes * 2**18)
    return prepare, work

def die():
    return (lambda: None), (lambda: os.kill(os.getpid(), 9))

def fail():
    raise ValueError("no such work")

def sleep():
    return (lambda: None), (lambda: time.sleep(60))
"""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of that name, for this process and its children."""
    import os
    import sys

    (tmp_path / "probed.py").write_text(WORK)
    known = [path for path in sys.path if (Path(path) / "emim").is_dir()]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *known]))


def test_sees_what_is_allocated_and_nothing_else() -> None:
    memory = peak_in_fresh_process("probed:allocate", {"mebibytes": 256, "before": 64}, threads=1)
    assert memory.peak_bytes == pytest.approx(256 * MIB, rel=0.03)
    assert memory.level_bytes > 64 * MIB
    assert memory.seconds > 0


def test_work_that_ends_badly() -> None:
    with pytest.raises(ProcessError, match=r"SIGKILL \(out of memory\?\)"):
        peak_in_fresh_process("probed:die", {}, threads=1)
    with pytest.raises(ProcessError, match="ValueError: no such work"):
        peak_in_fresh_process("probed:fail", {}, threads=1)
    with pytest.raises(ProcessError, match="more than 1 s"):
        peak_in_fresh_process("probed:sleep", {}, threads=1, timeout=1)


def test_the_peak_is_of_the_work_alone() -> None:
    """An earlier, higher peak of the same process does not count."""
    torch.ones(128 * 2**18)
    memory = measure_here((lambda: None, lambda: torch.ones(32 * 2**18)))
    assert memory.peak_bytes == pytest.approx(32 * MIB, rel=0.2)
