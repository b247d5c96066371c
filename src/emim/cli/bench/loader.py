"""`emim bench loader`: speed of loading training clips, by number of workers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, check_folder, give_result, percent, print_table, progress_bar, say
from emim.cli.options import (
    POSITIVE,
    Numbers,
    Real,
    add_option,
    add_renamed,
    add_result_options,
    examples,
    json_with_file,
    shortened,
)
from emim.errors import ConfigError

if TYPE_CHECKING:
    from emim.bench.loader import LoaderReport

_COUNTS = Numbers(0, 1024)


def add_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = parts.add_parser(
        "loader",
        parents=[common],
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
    parser.set_defaults(run=run, takes_overrides=True, overrides=[])


def run(args: argparse.Namespace) -> int:
    from emim.bench.loader import bench_loader, default_worker_counts
    from emim.cli.train import split_overrides
    from emim.data.folder import load_clips
    from emim.training.recipe import find_recipe, load_recipe

    check_folder(args.output)
    word, overrides = split_overrides(None, args.overrides)
    if word is not None:
        raise ConfigError(f"unexpected argument {shortened(word)}; give the clips as --data, overrides as key=value")
    config = load_recipe(find_recipe(args.recipe), [*overrides, f"data.path={args.data}"])
    clip_list = load_clips(args.data, split="train", val_share=config.data.val_share, seed=config.trainer.seed)
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
        print_report(report)
    described = {"data": str(args.data), "recipe": str(args.recipe), "overrides": overrides}
    give_result(args, lambda: {**described, **report.to_dict()})
    return 0


def print_report(report: LoaderReport) -> None:
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
