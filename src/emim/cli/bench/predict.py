"""`emim bench predict`: how fast many videos are predicted, and what bounds it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, give_result, print_table, progress_bar, say
from emim.cli.options import (
    NATURAL,
    POSITIVE,
    add_checkpoint,
    add_option,
    add_result_options,
    file_path,
    json_with_file,
)
from emim.environment import let_waiting_threads_sleep

if TYPE_CHECKING:
    from emim.bench.predict import PredictReport


def add_parser(parts: SubParsers, common: argparse.ArgumentParser) -> None:
    from emim.cli.predict import add_running_options

    parser = parts.add_parser(
        "predict",
        parents=[common],
        help="prediction of many videos",
        description=(
            "Measure how fast your videos are predicted, against reading them alone and the network alone, taking "
            "turns, and the memory of all processes over a long run."
        ),
    )
    parser.add_argument("--data", required=True, nargs="+", type=file_path, help="videos, or folders of them")
    add_checkpoint(parser)
    parser.add_argument("--videos", type=POSITIVE, default=64, help="at most so many of them, spread (default 64)")
    add_option(parser, "--repeats", "of each job; default: 3", default=3)
    parser.add_argument(
        "--memory-videos", type=NATURAL, default=200, help="videos of the run whose memory is watched (default 200)"
    )
    add_result_options(parser)
    json_with_file(parser)
    add_running_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    let_waiting_threads_sleep()  # as `emim predict` does
    from emim.bench.predict import bench_predict
    from emim.cli.predict import find_videos, load_recogniser
    from emim.data.prefetch import lost_workers_named

    found = [video for place in args.data for video in find_videos(place)]
    count = min(args.videos, len(found))
    videos = [found[number * len(found) // count] for number in range(count)]
    recogniser = load_recogniser(args)
    say(f"{count} of {len(found)} videos, {recogniser.precision} on {recogniser.device}")
    with lost_workers_named(), progress_bar("predicting", None) as progress:
        report = bench_predict(
            recogniser,
            videos,
            workers=args.workers,
            batch_size=args.batch_size,
            repeats=args.repeats,
            memory_videos=args.memory_videos,
            progress=progress,
        )
    if not args.json:
        print_report(report)
    about = {"data": [str(place) for place in args.data], "checkpoint": args.checkpoint or "bundled"}
    give_result(args, lambda: {**about, **report.to_dict()})
    return 0


def print_report(report: PredictReport) -> None:
    """The table of jobs, then what it means."""
    rows = [
        (rate.name, f"{rate.videos_per_second:.1f}", f"{low:.1f} - {high:.1f}", f"{rate.core_ms:.1f}")
        for rate in report.rates
        for low, high in [rate.quartiles]
    ]
    print_table("Prediction", ("job", "videos/s", "quartiles", "core ms/video"), rows)
    print("\n".join(report.verdict()))
    print(
        f"({report.videos} videos of {report.views_per_video} views, {report.workers} workers, batches of "
        f"{report.batch_size} views, {report.precision} on {report.device}, {report.threads} threads, "
        f"{report.repeats} passes after one to warm up)"
    )
    print(report.machine.line())
