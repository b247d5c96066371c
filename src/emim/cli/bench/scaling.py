"""`emim bench scaling`: how cost grows with the size of the input."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.bench.options import DTYPES, add_common, numbers, settings_of
from emim.cli.bench.tables import mebibytes, milliseconds, print_surroundings, times
from emim.cli.console import SubParsers, give_result, print_table, say

if TYPE_CHECKING:
    from emim.bench.scaling import Result, ScalingReport

_AXES = (
    ("frames", "frames"),
    ("side", "height and width of a frame in tokens"),
    ("window", "windows, odd"),
    ("batch", "clips of a batch"),
)


def add_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = parts.add_parser(
        "scaling",
        parents=[common],
        help="how cost grows, against global attention",
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from emim.bench.plot import check_plotting, plot_scaling
    from emim.bench.scaling import AXES, QUICK_AXES, bench_scaling

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
    if args.json:
        give_result(args, report.to_dict)
        return 0
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
