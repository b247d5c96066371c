"""Measure candidates in turn: settings, timing, memory beside it, and the results as tables and JSON."""

from __future__ import annotations

import dataclasses
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from emim.bench.memory import PeakMemory
from emim.environment import describe_machine
from emim.errors import ConfigError, UnknownNameError
from emim.utils import nearest

__all__ = [
    "DTYPES",
    "Report",
    "Row",
    "Settings",
    "Timing",
    "compared",
    "cpu_instructions",
    "interleaved",
    "native_bfloat16",
    "quartiles",
    "select",
    "surroundings",
    "times_faster",
    "version_of",
]

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats by the names of the command line."""

_PEER_PACKAGES = ("triton", "natten", "transformers")
# What decides how fast a CPU multiplies matrices.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_fp16", "sve", "bf16")


@dataclass(frozen=True)
class Settings:
    """Rounds, threads and device of a measurement.

    Attributes:
        repeats: rounds that count.
        warmup: rounds before them that do not.
        threads: CPU threads of one operation.
        device: "cpu", or a CUDA device such as "cuda".

    Raises:
        ConfigError: a value is out of range, or the device is not there.
    """

    repeats: int
    warmup: int
    threads: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.warmup < 0 or self.threads < 1:
            raise ConfigError(
                f"repeats ({self.repeats}) and threads ({self.threads}) must be at least 1, warm-up ({self.warmup}) at "
                "least 0"
            )
        try:
            kind = torch.device(self.device).type
        except RuntimeError:
            kind = ""
        if kind not in ("cpu", "cuda"):
            raise ConfigError(f"device {self.device!r}: known are cpu and cuda, cuda:0 and so on")
        if kind == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {self.device!r}: PyTorch finds no GPU here; take cpu")

    @property
    def on_gpu(self) -> bool:
        """True if the device is a GPU."""
        return torch.device(self.device).type == "cuda"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block this many threads are used; random draws start from the same seed, and leave no trace."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.random.fork_rng(devices=[self.device] if self.on_gpu else []):
                torch.manual_seed(0)
                yield
        finally:
            torch.set_num_threads(before)

    def finish(self) -> None:
        """Wait until the device has done all that it was given: times would be of the launch otherwise."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


def surroundings(settings: Settings) -> dict[str, Any]:
    """Settings, machine and versions for the record beside figures; plain values for JSON."""
    return {
        "settings": dataclasses.asdict(settings),
        "machine": describe_machine().to_dict(),
        "instructions": sorted(cpu_instructions() & set(_INSTRUCTIONS)),
        "peers": {name: version for name in _PEER_PACKAGES if (version := version_of(name)) is not None},
    }


def version_of(package: str) -> str | None:
    """Installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def native_bfloat16(settings: Settings) -> bool:
    """Return True if the device multiplies bfloat16 matrices natively, not through float32."""
    if settings.on_gpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return not cpu_instructions().isdisjoint(("amx_bf16", "avx512_bf16", "bf16"))


def cpu_instructions() -> set[str]:
    """Instruction sets by the names of /proc/cpuinfo; empty where there is no such file."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return set()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return set(line[1].split()) if line else set()


@dataclass(frozen=True)
class Timing:
    """Repeated times of one job, in milliseconds.

    Attributes:
        wall_ms: by the clock, one per repeat, in the order taken.
        cpu_ms: spent by this process on all its threads, likewise; hardly disturbed by other processes.
    """

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Median wall-clock time in milliseconds."""
        return statistics.median(self.wall_ms)

    @property
    def cpu_median_ms(self) -> float:
        """Median processor time in milliseconds."""
        return statistics.median(self.cpu_ms)

    @property
    def spread_ms(self) -> tuple[float, float]:
        """The quartiles of the times by the clock."""
        return quartiles(self.wall_ms)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        low, high = self.spread_ms
        return {
            "median_ms": self.median_ms,
            "quartiles_ms": [low, high],
            "cpu_median_ms": self.cpu_median_ms,
            "repeats": len(self.wall_ms),
        }


def interleaved(jobs: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, Timing]:
    """Time jobs in turn: each round runs all of them once, starting with another one each time.

    Args:
        jobs: what to run, by name.
        repeats: rounds that count.
        warmup: rounds before them that do not.
    """
    names = list(jobs)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(-warmup, repeats):
        turn = round_number % len(names)
        for name in names[turn:] + names[:turn]:
            cpu_start, start = time.process_time(), time.perf_counter()
            jobs[name]()
            stop, cpu_stop = time.perf_counter(), time.process_time()
            if round_number >= 0:
                wall[name].append(1e3 * (stop - start))
                cpu[name].append(1e3 * (cpu_stop - cpu_start))
    return {name: Timing(tuple(wall[name]), tuple(cpu[name])) for name in names}


def times_faster(job: Timing, other: Timing) -> float:
    """Return the time of the other job over that of this one: the median of the ratios within rounds."""
    return statistics.median(b / a for a, b in zip(job.wall_ms, other.wall_ms, strict=True))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile; of a single value, that value twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def select(wanted: Sequence[str] | None, known: Iterable[str], always: Sequence[str] = ()) -> list[str]:
    """Names in the order in which they are known.

    Args:
        wanted: names; None for all.
        known: all there are.
        always: those that the others are compared with, taken whether wanted or not.

    Raises:
        UnknownNameError: no such candidate.
    """
    names = list(known)
    for name in wanted or ():
        if name not in names:
            raise UnknownNameError(f"no candidate {name!r}; {nearest(name, names)}")
    return [name for name in names if wanted is None or name in wanted or name in always]


@dataclass(frozen=True)
class Row:
    """One candidate under one set of conditions.

    Attributes:
        name: of the candidate.
        conditions: what was varied: {"pass": "forward"}, {"batch": 8, "precision": "bfloat16"}.
        timing: of every round.
        memory: its peak, or None if that was not measured.
        over: how many times as long it takes as other rows take, by a short name of those; within rounds.
        facts: anything else worth stating, plain values.
    """

    name: str
    conditions: Mapping[str, Any]
    timing: Timing
    memory: PeakMemory | None = None
    over: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, every single time included."""
        return {
            "name": self.name,
            **self.conditions,
            **self.timing.to_dict(),
            "wall_ms": list(self.timing.wall_ms),
            "cpu_ms": list(self.timing.cpu_ms),
            "peak_bytes": None if self.memory is None else self.memory.peak_bytes,
            "level_bytes": None if self.memory is None else self.memory.level_bytes,
            "over": dict(self.over),
            **self.facts,
        }


@dataclass(frozen=True)
class Report:
    """Everything that one part of `emim bench` found.

    Attributes:
        part: its name.
        problem: shapes and number formats.
        rows: results.
        what: what each candidate computes, by name.
        skipped: why candidates, or some of their rows, were not run, by name.
        surroundings: see `emim.bench.measuring.surroundings`.
    """

    part: str
    problem: Mapping[str, Any]
    rows: Sequence[Row]
    what: Mapping[str, str]
    skipped: Mapping[str, str]
    surroundings: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "part": self.part,
            "problem": dict(self.problem),
            **self.surroundings,
            "rows": [row.to_dict() for row in self.rows],
            "what": dict(self.what),
            "skipped": dict(self.skipped),
        }


def compared(timing: Timing, others: Mapping[str, Timing | None]) -> dict[str, float]:
    """Return the time of `timing` over that of each other job of the same rounds."""
    return {name: times_faster(other, timing) for name, other in others.items() if other is not None}
