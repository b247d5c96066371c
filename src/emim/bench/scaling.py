"""How time and memory of an EMIM module grow with the size of its input, beside global self-attention.

One size is varied at a time, the others stay at a base point. Both modules run forward in inference mode; they take
turns at each point. A point that is expected to take longer than a limit, or more memory than is free, is left out:
what is expected follows from the last smaller point of that row and how the arithmetic grows.

Shape suffixes as in `emim.nn.emim`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from emim.bench.memory import PeakMemory, Work, peak_in_fresh_process, peak_on_gpu
from emim.bench.settings import DTYPES, Settings, surroundings
from emim.bench.timing import Timing, interleaved, times_faster
from emim.errors import ConfigError, ProcessError
from emim.nn import EMIM, SelfAttention
from emim.training.memory import free_bytes

AXES: Final = {
    "frames": (8, 16, 32, 64),
    "side": (7, 14, 28, 56),
    "window": (3, 5, 7, 9, 11, 13, 15),
    "batch": (1, 4, 16, 64),
}
"""Values of each axis; the side is the height and width of a frame in tokens."""

QUICK_AXES: Final = {"frames": (8, 16, 32), "side": (7, 14, 28), "window": (3, 7, 11), "batch": (1, 4)}
"""Fewer of them."""

MODULES: Final = ("emim", "attention")

_HEAD_WIDTH = 64
_USABLE = 0.8


@dataclass(frozen=True)
class Point:
    """Sizes of the input and of the module.

    Attributes:
        frames, side, batch: of the input, [batch, frames * side * side, heads * 64].
        window: of EMIM; global attention knows none.
        heads: of both.
    """

    frames: int = 16
    side: int = 14
    window: int = 7
    batch: int = 1
    heads: int = 5

    @property
    def tokens(self) -> int:
        return self.batch * self.frames * self.side * self.side

    def expected_cost(self, module: str) -> float:
        """Multiply-adds, up to how the backend cuts its products; to go from one point to another."""
        dim = self.heads * _HEAD_WIDTH
        if module == "attention":
            keys = self.frames * self.side**2
            return self.tokens * dim * (4 * dim + 2 * keys)
        entries = self.window**2
        keys = max(entries, min(self.side, 2 * self.window) * self.side)
        return self.tokens * (dim * (4 * dim + 2 * keys) + self.heads * entries * 4 * (entries + _HEAD_WIDTH))


@dataclass(frozen=True)
class Result:
    """One module at one point.

    Attributes:
        axis: what is varied.
        value: to what.
        module: one of `MODULES`.
        timing, memory: what was measured, or None.
        not_run: why nothing, or no memory, was measured; None if all was.
    """

    axis: str
    value: int
    module: str
    timing: Timing | None = None
    memory: PeakMemory | None = None
    not_run: str | None = None

    def to_dict(self) -> dict[str, Any]:
        timing = None if self.timing is None else {**self.timing.to_dict(), "wall_ms": list(self.timing.wall_ms)}
        return {
            "axis": self.axis,
            "value": self.value,
            "module": self.module,
            "timing": timing,
            "peak_bytes": None if self.memory is None else self.memory.peak_bytes,
            "not_run": self.not_run,
        }


@dataclass(frozen=True)
class ScalingReport:
    """What `bench_scaling` found.

    Attributes:
        base: the point from which one size is varied at a time.
        dtype: number format.
        limit: seconds that a pass may take.
        results: both modules at each value of each axis.
        surroundings: see `emim.bench.settings.surroundings`.
    """

    base: Point
    dtype: str
    limit: float
    results: Sequence[Result]
    surroundings: Mapping[str, Any]

    def at(self, axis: str, value: int, module: str) -> Result:
        """The result for one module at one point."""
        return next(r for r in self.results if (r.axis, r.value, r.module) == (axis, value, module))

    def values(self, axis: str) -> list[int]:
        """Of an axis, ascending."""
        return sorted({result.value for result in self.results if result.axis == axis})

    def ratio(self, axis: str, value: int) -> float | None:
        """How many times as long attention takes as EMIM, or None if one of them was not run."""
        emim, attention = (self.at(axis, value, module).timing for module in MODULES)
        return None if emim is None or attention is None else times_faster(emim, attention)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "part": "scaling",
            "problem": {"base": dataclasses.asdict(self.base), "dtype": self.dtype, "limit_seconds": self.limit},
            **self.surroundings,
            "results": [result.to_dict() for result in self.results],
        }


def bench_scaling(
    settings: Settings,
    *,
    base: Point = Point(),
    axes: Mapping[str, Sequence[int]] = AXES,
    dtype: str = "float32",
    limit: float = 20.0,
    memory: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> ScalingReport:
    """Measure both modules along each axis.

    Args:
        settings: rounds, threads, device.
        base: the point from which one size is varied at a time.
        axes: values by axis, see `AXES`.
        dtype: number format of module and input.
        limit: seconds that a pass may take.
        memory: also measure peak memory.
        progress: called with a line on what is done next.

    Raises:
        ConfigError: no such axis or number format, a value that the modules cannot take, or no positive limit.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"no number format {dtype!r}; known: {', '.join(DTYPES)}")
    if not limit > 0:
        raise ConfigError(f"the limit must be above 0 seconds, got {limit}")
    for axis, values in axes.items():
        if axis not in AXES:
            raise ConfigError(f"no axis {axis!r}; known: {', '.join(AXES)}")
        if not values or min(values) < 1 or (axis == "window" and any(value % 2 == 0 for value in values)):
            raise ConfigError(f"{axis} {list(values)}: values must be at least 1, and windows odd")
    results: list[Result] = []
    with settings.applied():
        for axis, values in axes.items():
            last: dict[str, tuple[Point, Result]] = {}
            for value in sorted(values):
                point = dataclasses.replace(base, **{axis: value})
                progress(f"{axis} {value}")
                for result in _measure(axis, value, point, last, settings, dtype, limit, memory):
                    results.append(result)
                    if result.timing is not None:
                        last[result.module] = (point, result)
    return ScalingReport(base, dtype, limit, results, surroundings(settings))


def memory_work(*, module: str, point: dict[str, Any], dtype: str) -> Work:
    """For a fresh process on the CPU: one pass of one module."""
    torch.manual_seed(0)
    settings = Settings(1, 0, torch.get_num_threads())
    full = Point(**point)
    small = dataclasses.replace(full, frames=2, side=min(full.side, full.window), batch=1)
    called = _module(module, full, dtype, "cpu")
    return _job(called, small, dtype, settings), _job(called, full, dtype, settings)


def _measure(
    axis: str,
    value: int,
    point: Point,
    last: Mapping[str, tuple[Point, Result]],
    settings: Settings,
    dtype: str,
    limit: float,
    memory: bool,
) -> list[Result]:
    """Both modules at one point."""
    reasons: dict[str, str] = {}
    peaks: dict[str, PeakMemory] = {}
    for name in MODULES:
        reason = _too_much(name, point, last.get(name), settings, limit)
        if reason is None and memory and not settings.on_gpu:
            try:
                peaks[name] = peak_in_fresh_process(
                    "emim.bench.scaling:memory_work",
                    {"module": name, "point": dataclasses.asdict(point), "dtype": dtype},
                    threads=settings.threads,
                )
            except ProcessError as error:
                reason = str(error)
            else:
                if peaks[name].seconds > limit:
                    reason = f"takes {peaks[name].seconds:.0f} s (limit {limit:g} s)"
        if reason is not None:
            reasons[name] = reason
    jobs = {
        name: _job(_module(name, point, dtype, settings.device), point, dtype, settings)
        for name in MODULES
        if name not in reasons
    }
    timings = interleaved(jobs, settings.repeats, settings.warmup) if jobs else {}
    if memory and settings.on_gpu:
        peaks = {name: peak_on_gpu(job, settings.device) for name, job in jobs.items()}
    return [Result(axis, value, name, timings.get(name), peaks.get(name), reasons.get(name)) for name in MODULES]


def _too_much(
    module: str, point: Point, last: tuple[Point, Result] | None, settings: Settings, limit: float
) -> str | None:
    """Why a point is not tried, from the last smaller one; None if it can be."""
    if last is None:
        return None
    before, result = last
    assert result.timing is not None
    seconds = result.timing.median_ms / 1e3 * point.expected_cost(module) / before.expected_cost(module)
    if seconds > limit:
        return f"would take about {seconds:.0f} s (limit {limit:g} s)"
    if result.memory is not None:
        needed = result.memory.peak_bytes * point.expected_cost(module) / before.expected_cost(module)
        free = free_bytes(torch.device(settings.device))
        # Attention keeps no map of all pairs, so its memory grows with the tokens alone.
        if module == "attention":
            needed = result.memory.peak_bytes * point.tokens / before.tokens
        if needed > _USABLE * free:
            return f"would need about {needed / 2**30:.0f} GiB ({free / 2**30:.0f} GiB are free)"
    return None


def _module(name: str, point: Point, dtype: str, device: str) -> nn.Module:
    dim = point.heads * _HEAD_WIDTH
    module: nn.Module = EMIM(dim, point.heads, point.window) if name == "emim" else SelfAttention(dim, point.heads)
    return module.eval().to(device, DTYPES[dtype])


def _job(module: nn.Module, point: Point, dtype: str, settings: Settings) -> Callable[[], object]:
    x_BLC: Tensor = torch.randn(
        point.batch, point.frames * point.side**2, point.heads * _HEAD_WIDTH, device=settings.device
    ).to(DTYPES[dtype])

    def run() -> None:
        with torch.inference_mode():
            if isinstance(module, EMIM):
                module(x_BLC, (point.frames, point.side, point.side))
            else:
                module(x_BLC)
        settings.finish()

    return run
