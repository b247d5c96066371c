"""`emim bench loader`: how fast training clips are loaded, and with how many workers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, check_folder, percent, positive, print_table, progress_bar, say, write_json
from emim.errors import ConfigError

if TYPE_CHECKING:
    from emim.bench.loader import LoaderReport


def add_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
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
    parser.set_defaults(run=run, takes_overrides=True, overrides=[])


def run(args: argparse.Namespace) -> int:
    from emim.bench.loader import bench_loader, default_worker_counts
    from emim.cli.train import split_overrides
    from emim.data.folder import load_clips
    from emim.training.recipe import find_recipe, load_recipe

    check_folder(args.json)
    word, overrides = split_overrides(None, args.overrides)
    if word is not None:
        raise ConfigError(f"what is {word!r}? The clips are given as --data, overrides as key=value")
    config = load_recipe(find_recipe(args.recipe), [*overrides, f"data.path={args.data}"])
    clip_list = load_clips(args.data, split="train", val_share=config.data.val_share, seed=config.trainer.seed)
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
    print_report(report)
    if args.json is not None:
        described = {"data": str(args.data), "recipe": str(args.recipe), "overrides": overrides}
        write_json(args.json, {**described, **report.to_dict()})
        say(f"written to {args.json}")
    return 0


def print_report(report: LoaderReport) -> None:
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
