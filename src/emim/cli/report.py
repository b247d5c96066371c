"""`emim report`: one page about a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emim.cli.console import SubParsers, check_folder, natural, positive, progress_bar, say
from emim.cli.labelled import find_clips, find_precision, tell_of_missing
from emim.cli.predict import find_device
from emim.environment import let_waiting_threads_sleep
from emim.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from emim.data.manifest import ClipList
    from emim.inference.recogniser import Recogniser
    from emim.report import Measurement
    from emim.training.run_folder import RunRecord

PAGE_FILE = "report.html"


def add_parser(subparsers: SubParsers, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "report",
        parents=[common],
        help="write a page about a run",
        description=(
            "Write one HTML file about a run that needs nothing else: results, curves, confusion, classes, the clips "
            "named most confidently with their motion, whether the network uses motion, configuration, data, timing. "
            "An unfinished run gets a report of what there is."
        ),
        epilog="The exit status is 0 if the page was written, whatever is missing on it.",
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument(
        "--data", type=Path, help="folder of classes, or manifest CSV, to test on (default: the run's validation clips)"
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="which part of --data (default: test of a folder, all of a manifest)",
    )
    parser.add_argument("-o", "--output", type=Path, help=f"file to write (default: {PAGE_FILE} in the run's folder)")
    parser.add_argument(
        "--clips", type=natural, default=4, help="clips to show of those named rightly, and as many wrongly (default 4)"
    )
    parser.add_argument("--no-diagnosis", action="store_true", help="do not test whether the network uses motion")
    running = parser.add_argument_group("running")
    running.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    running.add_argument(
        "--precision",
        choices=("auto", "32-true", "bf16-mixed"),
        default="auto",
        help="default: 32-true on the CPU, bf16-mixed on GPUs that compute in it",
    )
    running.add_argument(
        "--batch-size", type=positive, help="views in one pass of the network (default: 8 on the CPU, 32 on a GPU)"
    )
    running.add_argument("--workers", type=natural, help="loader processes (default: by cores)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    let_waiting_threads_sleep()
    from emim.training.run_folder import read_run

    record = read_run(args.folder)
    output = args.output or args.folder / PAGE_FILE
    check_folder(output)
    gaps: list[str] = []
    recogniser = _load(args, record, gaps)
    clip_list = None if recogniser is None else _find_clips(args, record, recogniser, gaps)
    measurement = None
    if recogniser is not None and clip_list is not None:
        measurement = _measure(args, recogniser, clip_list, gaps)
    write_report(record, recogniser, measurement, output, clips=args.clips, gaps=gaps)
    for gap in (*record.gaps, *gaps):
        say(f"missing: {gap}")
    if measurement is not None:
        tell_of_missing(measurement.test.missing, None, say)
    return 0


def write_report(
    record: RunRecord,
    recogniser: Recogniser | None,
    measurement: Measurement | None,
    output: Path,
    *,
    clips: int,
    gaps: list[str] | None = None,
) -> None:
    """Draw the clips, write the page, and say where it is.

    Raises:
        ConfigError: the file cannot be written.
    """
    from emim.report import gather, write_page
    from emim.report.formatting import size

    with progress_bar("drawing motion") as progress:
        gathered = gather(record, recogniser, measurement, clips=clips, gaps=gaps or (), progress=progress)
    bytes_written = write_page(gathered, output)
    print(f"{output} ({size(bytes_written)})")


def _load(args: argparse.Namespace, record: RunRecord, gaps: list[str]) -> Recogniser | None:
    from emim.inference.recogniser import Recogniser

    if record.card is None:
        return None
    device = find_device(args.device)
    try:
        return Recogniser.load(record.model_file, device=device, precision=find_precision(args.precision, device.type))
    except CheckpointError as error:
        gaps.append(f"The network could not be tested: {error}.")
        return None


def _find_clips(
    args: argparse.Namespace, record: RunRecord, recogniser: Recogniser, gaps: list[str]
) -> ClipList | None:
    """Those of --data, whose errors end the command; else those of the run, if they are to be had."""
    from emim.report.own_clips import validation_clips

    if args.data is not None:
        _, clip_list = find_clips(args, recogniser)
    elif record.config is None:
        return None
    else:
        try:
            clip_list = validation_clips(record.config, recogniser.classes)
        except DataError as error:
            gaps.append(f"The network was not tested: {error}.")
            return None
    say(clip_list.note or f"{len(clip_list)} clips from {clip_list.source}")
    return clip_list


def _measure(
    args: argparse.Namespace, recogniser: Recogniser, clip_list: ClipList, gaps: list[str]
) -> Measurement | None:
    from emim.data.loader import default_workers
    from emim.inference.scoring import ScoringOptions
    from emim.report import measure

    workers = default_workers() if args.workers is None else args.workers

    try:
        with progress_bar("testing", len(clip_list)) as progress:
            return measure(
                recogniser,
                clip_list,
                ScoringOptions(args.batch_size, workers),
                diagnosis=not args.no_diagnosis,
                progress=progress,
            )
    except (DataError, CheckpointError) as error:  # no clip can be read, or the weights are broken
        gaps.append(f"The network could not be tested: {error}.")
        return None
