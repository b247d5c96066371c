"""Measure and draw how the cost of EMIM and of global attention grows with the size of the input."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from emim.bench.measuring import DTYPES, Settings, Timing, interleaved, surroundings, times_faster
from emim.bench.memory import PeakMemory, Work, peak_in_fresh_process, peak_on_gpu
from emim.cli.bench import (
    add_common,
    mebibytes,
    milliseconds,
    numbers,
    print_surroundings,
    settings_of,
    times,
)
from emim.cli.console import give_result, print_table, say
from emim.errors import ConfigError, ProcessError
from emim.nn import EMIM, SelfAttention
from emim.training.memory import free_bytes
from emim.utils import atomic_write
from running import run_script

if TYPE_CHECKING:
    from collections.abc import Callable


_LABELS = {"emim": "EMIM", "attention": "global self-attention"}
# Marker and line differ too, so that the picture can be read without colour.
_STYLES = {
    "emim": {"color": "#0b5394", "marker": "o", "linestyle": "-"},
    "attention": {"color": "#b45f06", "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
}
_AXIS_LABELS = {
    "frames": "frames",
    "side": "tokens of a frame",
    "window": "window",
    "batch": "clips of a batch",
}
_ROWS: tuple[tuple[str, Callable[[Result], float | None]], ...] = (
    ("time, ms", lambda result: None if result.timing is None else result.timing.median_ms),
    ("peak memory, MiB", lambda result: None if result.memory is None else result.memory.peak_bytes / 2**20),
)


def plot_scaling(report: ScalingReport, file: Path) -> None:
    """Write the picture; the kind of file follows from its name.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    check_plotting(file)
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(result.axis for result in report.results))
    figure = Figure(figsize=(2.7 * len(axes) + 0.6, 5.4), layout="constrained")
    panels = figure.subplots(len(_ROWS), len(axes), squeeze=False, sharey="row")
    for row, (label, of) in enumerate(_ROWS):
        for column, axis in enumerate(axes):
            _panel(panels[row][column], report, axis, of)
            if column == 0:
                panels[row][column].set_ylabel(label)
            if row == len(_ROWS) - 1:
                panels[row][column].set_xlabel(_AXIS_LABELS[axis])
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    try:
        with atomic_write(file) as temporary:
            figure.savefig(temporary, dpi=110, format=file.suffix[1:])
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written ({error.strerror})") from error


def check_plotting(file: Path) -> None:
    """Say before hours of measuring what would be missing after them.

    Raises:
        ConfigError: matplotlib is not installed, or the name does not end in .png, .svg or .pdf.
    """
    if file.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--plot {file}: the name of a picture ends in .png, .svg or .pdf")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--plot {file}: needs matplotlib, pip install 'emim[plot]' ({error})") from error


def _panel(panel: Any, report: ScalingReport, axis: str, of: Callable[[Result], float | None]) -> None:
    values = report.values(axis)
    for module in MODULES:
        measured = [(value, figure) for value in values if (figure := of(report.at(axis, value, module))) is not None]
        panel.plot(
            [value for value, _ in measured],
            [figure for _, figure in measured],
            label=_LABELS[module],
            markersize=5,
            linewidth=1.4,
            **_STYLES[module],
        )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(values, [f"{value} x {value}" if axis == "side" else str(value) for value in values])
    panel.tick_params(labelsize=8)
    panel.minorticks_off()
    panel.margins(x=0.09)
    panel.grid(True, linewidth=0.4, alpha=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    left_out = [(value, module) for module in MODULES for value in values if of(report.at(axis, value, module)) is None]
    # Curves rise, so that the lower right corner is free.
    for height, (value, module) in enumerate(reversed(left_out)):
        panel.text(
            0.99, 0.02 + 0.07 * height, f"{_LABELS[module]}, {value}: not run",
            transform=panel.transAxes, ha="right", va="bottom", fontsize=7, color=_STYLES[module]["color"],
        )  # fmt: skip


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
        surroundings: see `emim.bench.measuring.surroundings`.
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
                    "scaling:memory_work",
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


_AXES = (
    ("frames", "frames"),
    ("side", "height and width of a frame in tokens"),
    ("window", "windows, odd"),
    ("batch", "clips of a batch"),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Time and peak memory of an EMIM module and of global self-attention (320 channels, 5 heads), forward; one "
            "size is varied at a time from 16 frames of 14 x 14 tokens, window 7, one clip."
        ),
    )
    for name, what in _AXES:
        parser.add_argument(f"--{name}", type=numbers, metavar="N,N,...", help=f"{what}; values to measure")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="number format (default float32)")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds that a pass may take (default 20)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw it, as .png, .svg or .pdf")
    add_common(parser, repeats=(5, 3), warmup=1, quick="fewer values, fewer rounds, without memory")
    return parser


def main(args: argparse.Namespace) -> int:

    if args.plot is not None:
        check_plotting(args.plot)
    given = {axis: getattr(args, axis) for axis in AXES if getattr(args, axis)}
    report = bench_scaling(
        settings_of(args),
        axes=given or (QUICK_AXES if args.quick else AXES),
        dtype=args.dtype,
        limit=args.limit,
        memory=not (args.no_memory or args.quick),
        progress=say,
    )
    print_scaling(report)
    give_result(args, report.to_dict)
    if args.plot is not None:
        plot_scaling(report, args.plot)
        say(f"drawn in {args.plot}")
    return 0


def print_scaling(report: ScalingReport) -> None:
    """A table for each size that is varied."""
    base = report.base
    for axis in dict.fromkeys(result.axis for result in report.results):
        rows = []
        for value in report.values(axis):
            emim, attention = (report.at(axis, value, module) for module in ("emim", "attention"))
            rows.append(
                (
                    f"{value} x {value}" if axis == "side" else str(value),
                    _time(emim),
                    _time(attention),
                    times(report.ratio(axis, value)),
                    mebibytes(emim.memory),
                    mebibytes(attention.memory),
                )
            )
        header = (axis, "EMIM ms", "attention ms", "attention / EMIM", "EMIM peak MiB", "attention peak MiB")
        print_table(f"By {axis}", header, rows)
        for result in report.results:
            if result.axis == axis and result.not_run is not None:
                print(f"not run: {result.module} at {axis} {result.value} ({result.not_run})")
    print(
        f"(from {base.frames} frames of {base.side} x {base.side} tokens, window {base.window}, batch {base.batch}, "
        f"{base.heads} heads of 64, {report.dtype}, forward)"
    )
    print_surroundings(report.surroundings)


def _time(result: Result) -> str:
    if result.timing is None:
        return "not run"
    return milliseconds(result.timing.median_ms)


if __name__ == "__main__":
    sys.exit(run_script(main, _parser()))
