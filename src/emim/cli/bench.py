"""`emim bench op` and `emim bench loader`: measure speed on this machine."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emim.cli.console import (
    SubParsers,
    check_folder,
    natural,
    percent,
    positive,
    print_table,
    progress_bar,
    say,
    write_json,
)
from emim.errors import ConfigError

if TYPE_CHECKING:
    from emim.bench.loader import LoaderReport
    from emim.bench.measuring import Report, Row, Settings
    from emim.bench.memory import PeakMemory


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "bench", help="measure speed on this machine", description="Measure how long parts of the package take here."
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for add_part in (_add_op_parser, _add_loader_parser):
        add_part(parts, common)
    for name in _MOVED:  # without a help text, so that the list of parts leaves them out
        moved = parts.add_parser(name, parents=[common], add_help=False)
        moved.set_defaults(run=_run_moved, part=name, takes_overrides=True)


def _run_moved(args: argparse.Namespace) -> int:
    raise ConfigError(
        f"the measurement {args.part!r} has moved to the repository: python benchmarks/{args.part}.py --help"
    )


_MOVED = ("model", "train", "scaling", "predict")
"""Measurements of version 0.1 that are scripts in benchmarks/ now."""

_SIZES = (
    ("batch", "clips", 1),
    ("heads", "attention heads", 5),
    ("frames", "frames", 16),
    ("height", "rows of tokens of a frame", 14),
    ("width", "tokens of a row", 14),
    ("head-width", "channels of a head", 64),
    ("window", "window, odd", 7),
)


def _add_op_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = parts.add_parser(
        "op",
        parents=[common],
        help="cost-volume attention alone",
        description=(
            "Time cost-volume attention, forward and with its gradients, beside an implementation with unfold, "
            "libraries, and bare matrix products. The sizes are those of UniFormer-S at 16 x 224 x 224."
        ),
    )
    for name, what, default in _SIZES:
        parser.add_argument(f"--{name}", type=positive, default=default, help=f"{what} (default {default})")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="number format (default float32)")
    parser.add_argument(
        "--layout", choices=("contiguous", "projection"), default="contiguous",
        help="q, k and v as tensors of their own, or as views of one projection, as the EMIM module has them",
    )  # fmt: skip
    parser.add_argument(
        "--published-source", type=Path, metavar="DIR",
        help="folder nat_with_rpb of the published code, whose CUDA kernels are then built and measured",
    )  # fmt: skip
    add_peers(parser)
    add_common(parser, repeats=(15, 5), warmup=2, quick="fewer rounds, without memory")
    parser.set_defaults(run=_run_op)


def _run_op(args: argparse.Namespace) -> int:
    from emim.bench.op import bench_op
    from emim.bench.peers import OpProblem

    problem = OpProblem(
        args.batch, args.heads, args.frames, args.height, args.width, args.head_width, args.window, args.dtype,
        args.layout,
    )  # fmt: skip
    report = bench_op(
        problem,
        settings_of(args),
        peers=args.peers,
        memory=not (args.no_memory or args.quick),
        published_source=args.published_source,
        progress=say,
    )
    print(
        f"{problem.batch} x {problem.frames} frames of {problem.height} x {problem.width} tokens, "
        f"{problem.heads} heads of {problem.head_width}, window {problem.window}, {problem.dtype}, {problem.layout}"
    )
    print_report(report, lambda conditions: f"The operator, {conditions['pass']}")
    write_report(args.json, report.to_dict)
    return 0


def _add_loader_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = parts.add_parser(
        "loader",
        parents=[common],
        help="loading of training clips",
        description=(
            "Measure on your clips what opening, decoding, transforms and stacking cost, how fast the loader is with "
            "several numbers of workers, and how many to use."
        ),
        epilog="Keys of the recipe can be set as in `emim train`, for example preprocessing.num_frames=8.",
    )
    parser.add_argument("--data", required=True, help="folder of classes, or manifest CSV")
    parser.add_argument(
        "--recipe", default="finetune", help="recipe whose preprocessing is measured (default finetune)"
    )
    parser.add_argument("--clips", type=positive, default=64, help="clips to measure on (default 64)")
    parser.add_argument(
        "--workers", type=_counts, metavar="N,N,...", help="numbers of workers (default: 0, 1 ... cores)"
    )
    parser.add_argument("--batch-size", type=positive, help="clips per batch (default: as in the recipe)")
    parser.add_argument("--repeats", type=positive, default=3, help="timed passes per number of workers (default 3)")
    parser.add_argument("--step-ms", type=float, help="time of a training step per clip: does the loader keep up?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    parser.set_defaults(run=_run_loader, takes_overrides=True, overrides=[])


def _run_loader(args: argparse.Namespace) -> int:
    from emim.bench.loader import bench_loader, default_worker_counts
    from emim.cli.train import split_overrides
    from emim.data.folder import training_and_validation_clips
    from emim.training.recipe import find_recipe, load_recipe

    check_folder(args.json)
    word, overrides = split_overrides(None, args.overrides)
    if word is not None:
        raise ConfigError(f"what is {word!r}? The clips are given as --data, overrides as key=value")
    config = load_recipe(find_recipe(args.recipe), [*overrides, f"data.path={args.data}"])
    clip_list, _ = training_and_validation_clips(
        args.data,
        val=config.data.val,
        val_share=config.data.val_share,
        seed=config.trainer.seed,
        columns=config.data.columns,
        group_by=config.data.group_by,
    )
    say(clip_list.note or f"{len(clip_list)} training clips from {args.data}")
    if config.data.cache:
        say("the recipe caches decoded frames (data.cache); measured is loading without the cache")
    workers = args.workers or default_worker_counts()
    with progress_bar("loading", None) as progress:
        report = bench_loader(
            clip_list,
            config.preprocessing,
            config.augment,
            clips=args.clips,
            workers=workers,
            batch_size=args.batch_size or min(config.trainer.batch_size or 8, args.clips),
            repeats=args.repeats,
            step_ms=args.step_ms,
            seed=config.trainer.seed,
            progress=progress,
        )
    print_loader_report(report)
    if args.json is not None:
        described = {"data": str(args.data), "recipe": str(args.recipe), "overrides": overrides}
        write_json(args.json, {**described, **report.to_dict()})
        say(f"written to {args.json}")
    return 0


def print_loader_report(report: LoaderReport) -> None:
    """The tables of stages and of worker counts, then what they mean."""
    rows = [
        (stage.name, f"{stage.median_ms:.2f}", f"{low:.2f} - {high:.2f}", percent(stage.share))
        for stage in report.stages
        for low, high in [stage.quartiles_ms]
    ]
    print_table("One clip on one core", ("stage", "median ms", "quartiles", "share"), rows)
    rates = [
        (str(rate.workers), f"{rate.clips_per_second:.1f}", f"{low:.1f} - {high:.1f}")
        for rate in report.rates
        for low, high in [rate.quartiles]
    ]
    print_table("The whole loader", ("workers", "clips/s", "quartiles"), rates)
    print("\n".join(report.verdict()))
    print(f"({report.clips} clips, batches of {report.batch_size}, {report.repeats} passes after one to warm up)")
    print(report.machine.line())


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 0:
        raise argparse.ArgumentTypeError(f"must be whole numbers of at least 0 with commas between, got {text!r}")
    return counts


DTYPES = ("float32", "bfloat16", "float16")


def add_common(parser: argparse.ArgumentParser, *, repeats: tuple[int, int], warmup: int, quick: str) -> None:
    """Options of every part that times candidates in turn.

    Args:
        parser: of the part.
        repeats: rounds that count, and with --quick.
        warmup: rounds before them.
        quick: what --quick measures.
    """
    parser.add_argument("--quick", action="store_true", help=f"{quick}; options given besides still hold")
    parser.add_argument(
        "--repeats", type=positive, help=f"rounds that count (default {repeats[0]}, with --quick {repeats[1]})"
    )
    parser.add_argument("--warmup", type=natural, default=warmup, help=f"rounds before them (default {warmup})")
    parser.add_argument("--threads", type=positive, help="CPU threads (default: as PyTorch chooses)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out peak memory, which takes a process for each"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write everything as JSON, every single time too"
    )
    parser.set_defaults(default_repeats=repeats)


def add_peers(parser: argparse.ArgumentParser) -> None:
    """The option that chooses candidates."""
    parser.add_argument(
        "--peers", type=names, metavar="NAME,NAME,...",
        help="candidates to run beside the one that all are compared with (default all; a wrong name lists them)",
    )  # fmt: skip


def settings_of(args: argparse.Namespace) -> Settings:
    """How to run, from the options of `add_common`."""
    import torch

    from emim.bench.measuring import Settings

    repeats = args.repeats or args.default_repeats[args.quick]
    return Settings(repeats, args.warmup, args.threads or torch.get_num_threads(), args.device)


def names(text: str) -> list[str] | None:
    """An argument that is a list of names, or "all"."""
    listed = [name.strip() for name in text.split(",") if name.strip()]
    if not listed:
        raise argparse.ArgumentTypeError("must be names with commas between, or all")
    return None if listed == ["all"] else listed


def numbers(text: str) -> list[int]:
    """An argument that is a list of whole numbers of at least 1."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"must be whole numbers of at least 1 with commas between, got {text!r}")
    return values


def dtypes(text: str) -> Sequence[str]:
    """An argument that is a list of number formats."""
    listed = [name.strip() for name in text.split(",")]
    if unknown := [name for name in listed if name not in DTYPES]:
        raise argparse.ArgumentTypeError(f"known are {', '.join(DTYPES)}, got {unknown[0]!r}")
    return listed


Column = tuple[str, "Callable[[Row], str]"]


def print_report(report: Report, title: Callable[[Mapping[str, Any]], str], *extra: Column) -> None:
    """A table for each set of conditions, then what the candidates are, what was left out, and where it was measured.

    Args:
        report: what was found.
        title: the title of a table from its conditions.
        extra: columns after those of every part.
    """
    for conditions, group in itertools.groupby(report.rows, lambda row: row.conditions):
        rows = list(group)
        bases = list(dict.fromkeys(base for row in rows for base in row.over))
        header = ("candidate", "median ms", "quartiles", *(f"/ {base}" for base in bases))
        print_table(
            title(conditions),
            (*header, "peak MiB", *(name for name, _ in extra)),
            [
                (
                    row.name,
                    milliseconds(row.timing.median_ms),
                    " - ".join(map(milliseconds, row.timing.spread_ms)),
                    *(times(row.over.get(base)) for base in bases),
                    mebibytes(row.memory),
                    *(cell(row) for _, cell in extra),
                )
                for row in rows
            ],
        )
    print("\n".join(f"{name}: {what}" for name, what in report.what.items()))
    for name, reason in report.skipped.items():
        print(f"not run: {name} ({reason})")
    print_surroundings(report.surroundings)


def print_surroundings(surroundings: Mapping[str, Any]) -> None:
    """How it was run and where."""
    from emim.environment import Machine

    settings = surroundings["settings"]
    peers = "".join(f", {name} {version}" for name, version in surroundings["peers"].items())
    print(
        f"(median of {settings['repeats']} rounds after {settings['warmup']} to warm up, taken in turn; ratios within "
        f"rounds; {settings['device']}, {settings['threads']} threads)"
    )
    print(Machine(**surroundings["machine"]).line() + peers)
    if surroundings["instructions"]:
        print(f"CPU with {', '.join(surroundings['instructions'])}")


def write_report(file: Path | None, content: Callable[[], Any]) -> None:
    """Write JSON where a file was given."""
    if file is not None:
        write_json(file, content())
        say(f"written to {file}")


def milliseconds(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(ratio: float | None) -> str:
    """A ratio; a dash for None."""
    return "-" if ratio is None else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def mebibytes(memory: PeakMemory | None) -> str:
    """Peak memory; a dash where it was not measured."""
    return "-" if memory is None else f"{memory.peak_bytes / 2**20:.0f}"
