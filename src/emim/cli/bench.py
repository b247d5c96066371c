"""`emim bench op` and `emim bench loader`: measure speed on this machine."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emim.cli.console import SubParsers, check_folder, give_result, percent, print_table, progress_bar, say
from emim.cli.options import (
    NATURAL,
    POSITIVE,
    SETTINGS,
    Numbers,
    Real,
    Whole,
    add_option,
    add_renamed,
    add_result_options,
    examples,
    file_path,
    json_with_file,
    names,
    shortened,
)
from emim.errors import ConfigError

if TYPE_CHECKING:
    from emim.bench.loader import LoaderReport
    from emim.bench.measuring import Report, Row, Settings
    from emim.bench.memory import PeakMemory

__all__ = [
    "add_common",
    "add_parser",
    "add_peers",
    "dtypes",
    "mebibytes",
    "milliseconds",
    "numbers",
    "print_report",
    "print_surroundings",
    "settings_of",
    "times",
]


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the parser of this command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure speed on this machine",
        description="Measure the speed of parts of the package on this machine.",
        epilog=examples("emim bench op --quick", "emim bench loader --data mine --recipe finetune"),
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

_COUNTS = Numbers(0, 1024)

_SIZE = Whole(1, 100_000)

_SIZES = (
    ("batch", "clips", 1),
    ("heads", "attention heads", 5),
    ("height", "rows of tokens of a frame", 14),
    ("width", "tokens of a row", 14),
    ("head-width", "channels of a head", 64),
    ("window", "window, odd", 7),
)


def _add_op_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = parts.add_parser(
        "op",
        parents=[common],
        **SETTINGS,
        help="cost-volume attention alone",
        description=(
            "Time cost-volume attention, forward and with its gradients, beside an implementation with unfold, "
            "libraries, and bare matrix products. The sizes are those of UniFormer-S at 16 x 224 x 224."
        ),
        epilog=examples(
            "emim bench op --quick", "emim bench op --dtype bfloat16 --peers unfold,dense --output op.json"
        ),
    )
    for name, meaning, default in _SIZES:
        parser.add_argument(
            f"--{name}", type=_SIZE, metavar="N", default=default, help=f"{meaning} (default: {default})"
        )
    add_option(parser, "--frames", "default: 16", default=16)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="number format (default: float32)")
    parser.add_argument(
        "--layout",
        choices=("contiguous", "projection"),
        default="contiguous",
        help="q, k and v as separate tensors, or as views of one projection, as the EMIM module has them "
        "(default: contiguous)",
    )
    parser.add_argument(
        "--published-source",
        type=file_path,
        metavar="FOLDER",
        help="folder nat_with_rpb of the published code, whose CUDA kernels are built and measured too",
    )
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
    check_folder(args.output)
    report = bench_op(
        problem,
        settings_of(args),
        peers=args.peers,
        memory=not (args.no_memory or args.quick),
        published_source=args.published_source,
        progress=say,
    )
    give_result(args, report.to_dict)
    if args.json:
        return 0
    print(
        f"{problem.batch} x {problem.frames} frames of {problem.height} x {problem.width} tokens, "
        f"{problem.heads} heads of {problem.head_width}, window {problem.window}, {problem.dtype}, {problem.layout}"
    )
    print_report(report, lambda conditions: f"The operator, {conditions['pass']}")
    return 0


def _add_loader_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = parts.add_parser(
        "loader",
        parents=[common],
        **SETTINGS,
        help="loading of training clips",
        description=(
            "Measure on your clips what opening, decoding, transforms and stacking cost, how fast the loader is with "
            "several numbers of workers, and how many to use."
        ),
        epilog=examples(
            "emim bench loader --data mine",
            "emim bench loader --data data/ssv2/train.csv --recipe ssv2_s16_k400 --try-workers 0,2,4,8",
            note="Keys of the recipe can be set as in `emim train`, for example preprocessing.num_frames=8.",
        ),
    )
    add_option(parser, "--data", required=True)
    add_option(parser, "--recipe", "its preprocessing is measured; default: finetune", default="finetune")
    parser.add_argument(
        "--measure-clips", type=POSITIVE, metavar="N", default=64, help="clips to measure with (default: 64)"
    )
    parser.add_argument(
        "--try-workers", type=_COUNTS, metavar="N,N,...", help="numbers of workers to measure (default: 0, 1 ... cores)"
    )
    add_option(parser, "--batch-size", "default: as in the recipe")
    add_option(parser, "--repeats", "for each number of workers; default: 3", default=3)
    parser.add_argument(
        "--step-ms",
        type=Real(0, 1e9, above=True),
        metavar="MS",
        help="time of a training step per clip, to tell if the loader keeps up",
    )
    add_result_options(parser)
    json_with_file(parser)
    add_renamed(parser, "--clips", "--measure-clips", type=POSITIVE)
    add_renamed(parser, "--workers", "--try-workers", type=_COUNTS)
    parser.set_defaults(run=_run_loader, takes_overrides=True, overrides=[])


def _run_loader(args: argparse.Namespace) -> int:
    from emim.bench.loader import bench_loader, default_worker_counts
    from emim.cli.train import split_overrides
    from emim.data.folder import training_and_validation_clips
    from emim.training.recipe import find_recipe, load_recipe

    check_folder(args.output)
    word, overrides = split_overrides(None, args.overrides)
    if word is not None:
        raise ConfigError(f"unexpected argument {shortened(word)}; give the clips as --data, overrides as key=value")
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
        say("the recipe caches decoded frames (data.cache); loading is measured without the cache")
    workers = args.try_workers or default_worker_counts()
    with progress_bar("loading", None) as progress:
        report = bench_loader(
            clip_list,
            config.preprocessing,
            config.augment,
            clips=args.measure_clips,
            workers=workers,
            batch_size=args.batch_size or min(config.trainer.batch_size or 8, args.measure_clips),
            repeats=args.repeats,
            step_ms=args.step_ms,
            seed=config.trainer.seed,
            progress=progress,
        )
    if not args.json:
        print_loader_report(report)
    described = {"data": str(args.data), "recipe": str(args.recipe), "overrides": overrides}
    give_result(args, lambda: {**described, **report.to_dict()})
    return 0


def print_loader_report(report: LoaderReport) -> None:
    """Print the tables of stages and of worker counts, then the conclusion."""
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


DTYPES = ("float32", "bfloat16", "float16")


def add_common(parser: argparse.ArgumentParser, *, repeats: tuple[int, int], warmup: int, quick: str) -> None:
    """Options of every part that times candidates in turn.

    Args:
        parser: of the part.
        repeats: rounds that count, and with --quick.
        warmup: rounds before them.
        quick: what --quick measures.
    """
    parser.add_argument("--quick", action="store_true", help=f"{quick}; options given explicitly still hold")
    add_option(parser, "--repeats", f"default: {repeats[0]}, with --quick {repeats[1]}")
    parser.add_argument(
        "--warmup",
        type=NATURAL,
        metavar="N",
        default=warmup,
        help=f"rounds before them, not counted (default: {warmup})",
    )
    add_option(parser, "--threads", "default: as PyTorch chooses")
    add_option(parser, "--device", "default: cpu", default="cpu")
    parser.add_argument(
        "--no-memory", action="store_true", help="do not measure peak memory, which needs a process for each candidate"
    )
    add_result_options(parser, "the result as JSON, with every single time")
    json_with_file(parser)
    parser.set_defaults(default_repeats=repeats)


def add_peers(parser: argparse.ArgumentParser) -> None:
    """The option that chooses candidates."""
    parser.add_argument(
        "--peers", type=peer_names, metavar="NAME,NAME,...",
        help="candidates to run beside the one that all are compared with (default all; a wrong name lists them)",
    )  # fmt: skip


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings from the options of `add_common`."""
    import torch

    from emim.bench.measuring import Settings

    repeats = args.repeats or args.default_repeats[args.quick]
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Settings(repeats, args.warmup, args.threads or torch.get_num_threads(), device)


def peer_names(text: str) -> list[str] | None:
    """Argument type: names of candidates, or "all"."""
    names(text)
    listed = [name.strip() for name in text.split(",") if name.strip()]
    if not listed:
        raise argparse.ArgumentTypeError("must be names with commas between, or all")
    return None if listed == ["all"] else listed


numbers = Numbers(1, 1_000_000)
"""Argument type: a list of whole numbers of at least 1."""


def dtypes(text: str) -> Sequence[str]:
    """Argument type: a list of number formats."""
    listed = [name.strip() for name in text.split(",")]
    if unknown := [name for name in listed if name not in DTYPES]:
        raise argparse.ArgumentTypeError(f"known are {', '.join(DTYPES)}, got {unknown[0]!r}")
    return listed


Column = tuple[str, "Callable[[Row], str]"]


def print_report(report: Report, title: Callable[[Mapping[str, Any]], str], *extra: Column) -> None:
    """Print a table for each set of conditions, then the candidates, those left out, and the machine.

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
    """Print the settings of the measurement and the machine."""
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


def milliseconds(value: float) -> str:
    """Format with three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(ratio: float | None) -> str:
    """Format a ratio; None is a dash."""
    return "-" if ratio is None else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def mebibytes(memory: PeakMemory | None) -> str:
    """Peak memory; a dash where it was not measured."""
    return "-" if memory is None else f"{memory.peak_bytes / 2**20:.0f}"
